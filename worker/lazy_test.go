package worker

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/boottrace"
	"github.com/slackerd/slacker/nbdserver"
)

// content reads or writes all of a volume at the server.
func (f *fakeServer) content(t *testing.T, name string, write []byte) []byte {
	t.Helper()
	ctx := context.Background()
	d, err := f.backend.Open(ctx, name, nbdserver.Conn{}, func(error) {})
	must(t, err)
	defer func() { must(t, d.Close()) }()
	if write != nil {
		must(t, d.WriteAt(ctx, write, 0, false))
		return write
	}
	p := make([]byte, d.Info().SizeBytes)
	must(t, f.read(name, p))
	return p
}

// read reads a volume at the server.
func (f *fakeServer) read(name string, p []byte) error {
	d, err := f.backend.Open(context.Background(), name, nbdserver.Conn{}, func(error) {})
	if err != nil {
		return err
	}
	return errors.Join(d.ReadAt(context.Background(), p, 0), d.Close())
}

// GetDirty says which blocks differ from the snapshot that all volumes are of.
func (f *fakeServer) GetDirty(_ context.Context, r *connect.Request[slackerv1.GetDirtyRequest]) (*connect.Response[slackerv1.GetDirtyResponse], error) {
	f.mu.Lock()
	a := f.attachments[r.Msg.GetAttachmentId()]
	f.mu.Unlock()
	if a == nil || f.snapshot == nil || r.Msg.GetBaseId() != "s" {
		return nil, api.ToConnect(block.Errorf(block.NotFound, "no attachment on that base"))
	}
	ctx := context.Background()
	d, err := f.backend.Open(ctx, a.GetTarget(), nbdserver.Conn{}, func(error) {})
	if err != nil {
		return nil, api.ToConnect(err)
	}
	defer func() { _ = d.Close() }()
	out := &slackerv1.GetDirtyResponse{EndBytes: min(r.Msg.GetOffsetBytes()+4<<20, uint64(len(f.snapshot)))}
	p := make([]byte, block.Size)
	for at := r.Msg.GetOffsetBytes(); at < out.EndBytes; at += block.Size {
		if err := d.ReadAt(ctx, p, at); err != nil {
			return nil, api.ToConnect(err)
		}
		if !bytes.Equal(p, f.snapshot[at:at+block.Size]) {
			out.Runs = append(out.Runs, at, block.Size)
		}
	}
	return connect.NewResponse(out), nil
}

// readAndCompare reads blocks of a device past all caches from one on, until the
// context ends, and wants what the snapshot has.
func readAndCompare(ctx context.Context, t *testing.T, device string, want []byte, seed uint64) {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = f.Close() }()
	buf, err := unix.Mmap(-1, 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = unix.Munmap(buf) }()
	rng := rand.New(rand.NewPCG(seed, 0))
	for ctx.Err() == nil {
		n := (1 + rng.IntN(16)) * block.Size
		at := (len(want)/2 + rng.IntN(len(want)/2-n)) / block.Size * block.Size
		if _, err := f.ReadAt(buf[:n], int64(at)); err != nil {
			t.Error(err)
			return
		}
		if !bytes.Equal(buf[:n], want[at:at+n]) {
			t.Errorf("%d bytes at %d are not the snapshot's", n, at)
			return
		}
	}
}

func readDevice(t *testing.T, device string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(device)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the volume is", device)
	}
}

// TestCacheOfKilledAgents kills the daemon of a clone again and again while its
// blocks are read, kept and written. Neither it, attached anew, nor another clone
// then reads anything wrong, and the other finds what was kept.
func TestCacheOfKilledAgents(t *testing.T) {
	needStandby(t)
	const size = 16 << 20
	f := newFakeServer(t, map[string]uint64{"v": size, "team/v": size})
	f.snapshot = make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(f.snapshot)
	for _, name := range []string{"v", "team/v"} {
		f.content(t, name, f.snapshot)
	}
	c := testConfig(t, f)
	w := testWorker(t, c)
	a, err := w.Attach(t.Context(), "v", fuseOptions(""))
	must(t, err)
	readDevice(t, a.Device, f.snapshot) // and keeps it: what is written next is stale there
	ag := agent{w.store, "v"}
	ctx, stop := context.WithCancel(t.Context())
	var users sync.WaitGroup
	for i := range uint64(2) {
		users.Go(func() { writeAndVerify(ctx, t, a.Device, i*64) })
		users.Go(func() { readAndCompare(ctx, t, a.Device, f.snapshot, i) })
	}
	pid, _ := awaitAgents(t, ag, 0)
	for range 3 {
		must(t, unix.Kill(pid, unix.SIGKILL))
		pid, _ = awaitAgents(t, ag, pid)
	}
	stop()
	users.Wait()
	_, err = w.Detach(t.Context(), "v", false)
	must(t, err)

	other, err := w.Attach(t.Context(), "team/v", fuseOptions(""))
	must(t, err)
	readDevice(t, other.Device, f.snapshot)
	must(t, awaitFor(t.Context(), time.Minute, func() (bool, error) {
		rows, err := w.List(t.Context())
		return err == nil && rows[0].Cache != nil && rows[0].Cache.HitBytes > 0, err
	}))
	written := f.content(t, "v", nil)
	if bytes.Equal(written, f.snapshot) {
		t.Fatal("nothing was written: this tests nothing")
	}
	again, err := w.Attach(t.Context(), "v", fuseOptions(""))
	must(t, err)
	readDevice(t, again.Device, written)
	for _, target := range []string{"v", "team/v"} {
		_, err = w.Detach(t.Context(), target, false)
		must(t, err)
	}
}

// PutTrace keeps the trace of the snapshot.
func (f *fakeServer) PutTrace(_ context.Context, r *connect.Request[slackerv1.PutTraceRequest]) (*connect.Response[slackerv1.PutTraceResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(r.Msg.GetTrace()) > 0 {
		f.trace = r.Msg.GetTrace()
	}
	if len(r.Msg.GetFiles()) > 0 {
		f.files = r.Msg.GetFiles()
	}
	return connect.NewResponse(&slackerv1.PutTraceResponse{}), nil
}

// ReadBase reads the snapshot.
func (f *fakeServer) ReadBase(_ context.Context, r *connect.Request[slackerv1.ReadBaseRequest]) (*connect.Response[slackerv1.ReadBaseResponse], error) {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		return nil, api.ToConnect(err)
	}
	defer func() { _ = e.Close() }()
	var p []byte
	for i, runs := 0, r.Msg.GetRuns(); i < len(runs); i += 2 {
		p = append(p, f.snapshot[runs[i]:runs[i]+runs[i+1]]...)
	}
	return connect.NewResponse(&slackerv1.ReadBaseResponse{Zstd: e.EncodeAll(p, nil)}), nil
}

// readDirect reads the beginning of a device past all caches.
func readDirect(t *testing.T, device string, want []byte) {
	t.Helper()
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_DIRECT, 0)
	must(t, err)
	defer func() { _ = f.Close() }()
	buf, err := unix.Mmap(-1, 0, len(want), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	must(t, err)
	defer func() { _ = unix.Munmap(buf) }()
	_, err = f.ReadAt(buf, 0)
	must(t, err)
	if !bytes.Equal(buf, want) {
		t.Errorf("the first %d bytes of %s are wrong", len(want), device)
	}
}

// TestTraceOfAStart: what one start has read, the next fetches ahead, on a worker
// that has never seen the snapshot.
func TestTraceOfAStart(t *testing.T) {
	needFuse(t)
	const size, start = 16 << 20, 2 << 20
	f := newFakeServer(t, map[string]uint64{"v": size, "team/v": size})
	f.snapshot = make([]byte, size)
	f.delay = 5 * time.Millisecond
	_, _ = rand.NewChaCha8([32]byte{8}).Read(f.snapshot)
	for _, name := range []string{"v", "team/v"} {
		f.content(t, name, f.snapshot)
	}
	first, second := testWorker(t, testConfig(t, f)), testWorker(t, testConfig(t, f))
	a, err := first.Attach(t.Context(), "v", fuseOptions(""))
	must(t, err)
	readDirect(t, a.Device, f.snapshot[:start])
	_, err = first.Detach(t.Context(), "v", false)
	must(t, err)
	f.mu.Lock()
	runs, err := boottrace.Decode(f.trace)
	f.mu.Unlock()
	must(t, err)
	blocks := uint64(0)
	for _, r := range runs {
		blocks += r.Count
	}
	if blocks < start/block.Size {
		t.Fatalf("the trace has %d blocks: %v", blocks, runs)
	}
	b, err := second.Attach(t.Context(), "team/v", fuseOptions(""))
	must(t, err)
	for range 10 { // reads that show that the link is long
		readDirect(t, b.Device, f.snapshot[:block.Size])
	}
	must(t, awaitFor(t.Context(), time.Minute, func() (bool, error) {
		rows, err := second.List(t.Context())
		return err == nil && rows[0].Cache != nil && rows[0].Cache.PrefetchedBytes > start/2, err
	}))
	readDirect(t, b.Device, f.snapshot[:start])
	readDevice(t, b.Device, f.snapshot)
	_, err = second.Detach(t.Context(), "team/v", false)
	must(t, err)
}

// TestFilesOfAStart: which files a start has opened is told to who attaches another
// clone, unless it wants no such hints; what is too long is no hint.
func TestFilesOfAStart(t *testing.T) {
	needFuse(t)
	const size = 4 << 20
	f := newFakeServer(t, map[string]uint64{"v": size})
	f.snapshot = make([]byte, size)
	files := boottrace.EncodeFiles([]boottrace.File{{Path: "bin/sh", Runs: []boottrace.Run{{First: 1, Count: 2}}}})
	attached := func(change func(*Config)) *Attached {
		c := testConfig(t, f)
		change(&c)
		w := testWorker(t, c)
		a, err := w.Attach(t.Context(), "v", fuseOptions(""))
		must(t, err)
		if len(a.Files) == 0 && c.Prefetch {
			must(t, w.TellFiles(t.Context(), a, files))
		} else if err := w.TellFiles(t.Context(), a, files); (err == nil) != c.Prefetch {
			t.Errorf("to tell without hints: %v", err)
		}
		_, err = w.Detach(t.Context(), "v", false)
		must(t, err)
		return a
	}
	as := func(*Config) {}
	if a := attached(as); a.Files != nil {
		t.Errorf("before anybody has told: %q", a.Files)
	}
	if a := attached(as); !bytes.Equal(a.Files, files) {
		t.Errorf("got %q, want %q", a.Files, files)
	}
	if a := attached(func(c *Config) { c.Prefetch = false }); a.Files != nil {
		t.Errorf("without hints: %q", a.Files)
	}
	f.files = make([]byte, boottrace.MaxFilesBytes+1)
	if a := attached(as); a.Files != nil {
		t.Errorf("%d bytes were taken", len(a.Files))
	}
}
