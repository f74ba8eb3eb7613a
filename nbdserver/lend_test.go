package nbdserver_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
	"golang.org/x/sys/unix"
)

// lenders is a backend whose devices lend the pages of a file that holds what
// they hold.
type lenders struct {
	*nbdtest.Memory
	file *os.File
	lent atomic.Int64
	// refuse has a loan fail when its pages are in the pipe.
	refuse func(offBytes uint64) bool
}

func (b *lenders) Open(ctx context.Context, name string, c nbdserver.Conn, disconnect func(error)) (nbdserver.Device, error) {
	d, err := b.Memory.Open(ctx, name, c, disconnect)
	return lenderDevice{d, b}, err
}

type lenderDevice struct {
	nbdserver.Device
	b *lenders
}

func (d lenderDevice) LendNow(pipe int, offBytes, lengthBytes uint64) bool {
	off, n := int64(offBytes), int(lengthBytes)
	for n > 0 {
		m, err := unix.Splice(int(d.b.file.Fd()), &off, pipe, nil, n, unix.SPLICE_F_NONBLOCK)
		if err != nil || m == 0 {
			return false
		}
		n -= int(m)
	}
	if d.b.refuse != nil && d.b.refuse(offBytes) {
		return false
	}
	d.b.lent.Add(1)
	return true
}

const lentDisk = 8 << 20

// newLenders returns a backend and what its export "vol" holds.
func newLenders(t *testing.T) (*lenders, []byte) {
	t.Helper()
	want := fill(lentDisk, 5)
	for i := 0; i < lentDisk; i += 4096 {
		be.PutUint64(want[i:], uint64(i)+1)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	m := nbdtest.NewMemory("vol", nbdtest.DefaultInfo(lentDisk))
	d, err := m.Open(context.Background(), "vol", nbdserver.Conn{}, nil)
	if err == nil {
		err = d.WriteAt(context.Background(), want, 0, false)
	}
	if err == nil {
		err = d.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return &lenders{Memory: m, file: f}, want
}

// TestLentReads has reads of all lengths in flight at once, of which every
// third cannot be lent after all, among commands of other kinds: each gets its
// own data, whole, whatever waits in the socket meanwhile.
func TestLentReads(t *testing.T) {
	for _, mode := range modes {
		b, want := newLenders(t)
		b.refuse = func(off uint64) bool { return off/4096%3 == 0 }
		b.Slow = func(off uint64, _ int) bool { return b.refuse(off) } // another goroutine answers
		p := enterMode(t, start(t, b), mode)
		lengths := []uint32{4096, 60 << 10, 64 << 10, 128 << 10, 100 << 10, 1<<20 - 4096, 1 << 20, 1<<20 + 4096, 2 << 20}
		const each = 12
		sent := make(chan struct{})
		offset := func(k int) uint64 { return uint64(k*37%1024) * 4096 }
		go func() {
			defer close(sent)
			for k := range each * len(lengths) {
				n := lengths[k%len(lengths)]
				if _, err := p.nc.Write(mode.bytes(ask{cmd: cRead, cookie: uint64(k), off: offset(k), length: uint64(n)})); err != nil {
					t.Errorf("send: %v", err)
				}
				if k%5 == 0 {
					if _, err := p.nc.Write(mode.bytes(ask{cmd: cFlush, cookie: 1 << 32})); err != nil {
						t.Errorf("send: %v", err)
					}
				}
			}
		}()
		for left := each * len(lengths); left > 0; {
			cookie, got := p.anyRead(lengths)
			if cookie == 1<<32 {
				continue
			}
			left--
			off := offset(int(cookie))
			if !bytes.Equal(got, want[off:off+uint64(len(got))]) {
				t.Fatalf("read %d of %d bytes at %d: other data", cookie, len(got), off)
			}
		}
		<-sent
		if n := b.lent.Load(); n < each {
			t.Errorf("%d reads were lent: want most long ones", n)
		}
	}
}

// anyRead reads the reply of a READ, whose cookie tells its length, or of a FLUSH.
func (p *modePeer) anyRead(lengths []uint32) (uint64, []byte) {
	p.t.Helper()
	head := p.read(16)
	cookie := be.Uint64(head[8:])
	if be.Uint32(head) == simpMagic {
		if e := be.Uint32(head[4:]); e != 0 {
			p.t.Fatalf("command %d: error %d", cookie, e)
		}
		if p.mode != simple || cookie == 1<<32 {
			return cookie, nil
		}
		return cookie, p.read(int(lengths[cookie%uint64(len(lengths))]))
	}
	magic, n := chunkMagic, uint64(0)
	if p.mode == extended {
		magic, n = extChunkMagic, be.Uint64(p.read(16)[8:])
	} else {
		n = uint64(be.Uint32(p.read(4)))
	}
	if be.Uint32(head) == magic && be.Uint16(head[6:]) == 0 && cookie == 1<<32 && n == 0 {
		return cookie, nil
	}
	if be.Uint32(head) != magic || be.Uint16(head[6:]) != 1 || n != 8+uint64(lengths[cookie%uint64(len(lengths))]) {
		p.t.Fatalf("chunk %x of %d bytes: want data", head, n)
	}
	return cookie, p.read(int(n))[8:]
}

// TestLentUnread: a client that does not take lent replies is bounded in time,
// and pipes are closed with their connection.
func TestLentUnread(t *testing.T) {
	b, _ := newLenders(t)
	r := start(t, b, func(o *nbdserver.Options) { o.Limits.Stall = 200 * time.Millisecond })
	open := descriptors(t)
	p := enter(t, r, false)
	var err error
	for err == nil {
		_, err = p.nc.Write(commandBytes(0, cRead, 1, 0, 1<<20, nil))
	}
	until(t, "the device to be closed", func() bool { return b.OpenDevices() == 0 })
	if b.lent.Load() == 0 {
		t.Error("nothing was lent")
	}
	_ = p.nc.Close()
	until(t, "the pipe to be closed", func() bool { return descriptors(t) <= open })
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}
