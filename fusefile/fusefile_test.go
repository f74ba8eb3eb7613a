package fusefile

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/nbdclient"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testBytes = 4 << 20

// kernel is the other end of a device: a socket that keeps messages apart, as
// /dev/fuse does.
type kernel struct {
	t      *testing.T
	fd     int
	server *Server
	memory *nbdtest.Memory
	unique uint64
}

// newKernel serves a volume of memory over a device whose other end is the
// test.
func newKernel(t *testing.T, readOnly bool) *kernel {
	t.Helper()
	k := &kernel{t: t, memory: nbdtest.NewMemory("v", nbdtest.DefaultInfo(testBytes))}
	k.memory.Record()
	server, err := nbdserver.New(k.memory, nbdserver.Options{Limits: nbdserver.DefaultLimits()})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "nbd"))
	if err != nil {
		t.Fatal(err)
	}
	nbdDone := make(chan struct{})
	go func() { defer close(nbdDone); _ = server.Serve(t.Context(), l) }()
	session, err := nbdclient.OpenSession(t.Context(), []string{"unix://" + l.Addr().String()}, "v", nbdclient.DefaultSessionOptions())
	if err != nil {
		t.Fatal(err)
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	k.fd = ends[1]
	device := &Device{File: os.NewFile(uintptr(ends[0]), "device"), fd: ends[0], Settings: Settings{MaxWriteBytes: 128 << 10}}
	k.send(opInit, 0, u32(protoMajor, 38, 1<<20, flagAsyncDIO|flagInitExt, flagHasResend>>32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
	k.server, err = NewServer(device, session, session.NewBatch(), "disk", readOnly, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if errno, body := k.receive(); errno != 0 || len(body) != 64 || !device.Settings.CanResend {
		t.Fatalf("greeting: %v, %d bytes, %+v", errno, len(body), device.Settings)
	}
	served := make(chan error, 1)
	go func() { served <- k.server.Serve() }()
	t.Cleanup(func() {
		_ = unix.Shutdown(k.fd, unix.SHUT_RDWR)
		select {
		case err := <-served: // the end of a socket is no message of the kernel's
			if err == nil {
				t.Error("the server took the end of the socket for an unmount")
			}
		case <-time.After(60 * time.Second):
			t.Error("the server does not end")
		}
		_ = session.Close()
		server.Close()
		<-nbdDone
		_ = unix.Close(k.fd)
		_ = device.File.Close()
	})
	return k
}

func u32(vs ...uint32) (b []byte) {
	for _, v := range vs {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}

func u64(vs ...uint64) (b []byte) {
	for _, v := range vs {
		b = binary.NativeEndian.AppendUint64(b, v)
	}
	return b
}

func (k *kernel) send(opcode uint32, node uint64, body []byte) {
	k.t.Helper()
	k.unique += 2
	k.raw(bytes.Join([][]byte{u32(uint32(inHeaderBytes+len(body)), opcode), u64(k.unique, node), u32(0, 0, 0, 0), body}, nil))
}

func (k *kernel) raw(message []byte) {
	k.t.Helper()
	if _, err := unix.Write(k.fd, message); err != nil {
		k.t.Fatal(err)
	}
}

// receive returns the answer to the last request.
func (k *kernel) receive() (unix.Errno, []byte) {
	k.t.Helper()
	p := make([]byte, 256<<10)
	n, err := unix.Read(k.fd, p)
	if err != nil {
		k.t.Fatal(err)
	}
	p = p[:n]
	if n < outHeaderBytes || int(binary.NativeEndian.Uint32(p)) != n || binary.NativeEndian.Uint64(p[8:]) != k.unique {
		k.t.Fatalf("answer of %d bytes to %d: % x", n, k.unique, p[:min(n, 32)])
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(p[4:]))), p[outHeaderBytes:]
}

func (k *kernel) ask(opcode uint32, node uint64, body ...[]byte) (unix.Errno, []byte) {
	k.t.Helper()
	k.send(opcode, node, bytes.Join(body, nil))
	return k.receive()
}

// ioBody is the body of a read or write.
func ioBody(off uint64, size uint32) []byte {
	return bytes.Join([][]byte{u64(0, off), u32(size, 0), u64(0), u32(0, 0)}, nil)
}

func (k *kernel) write(off uint64, p []byte) unix.Errno {
	k.t.Helper()
	errno, body := k.ask(opWrite, fileNode, ioBody(off, uint32(len(p))), p)
	if errno == 0 && int(binary.NativeEndian.Uint32(body)) != len(p) {
		k.t.Fatalf("write of %d bytes: % x", len(p), body)
	}
	return errno
}

func TestReadsAndWrites(t *testing.T) {
	k := newKernel(t, false)
	off := uint64(0)
	for i, size := range []int{512, 4096, smallBytes, smallBytes + 4096, 128 << 10, 128 << 10, 4096} {
		want := bytes.Repeat([]byte{byte(i + 1)}, size)
		if errno := k.write(off, want); errno != 0 {
			t.Fatal(errno)
		}
		errno, got := k.ask(opRead, fileNode, ioBody(off, uint32(size)))
		if errno != 0 || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes at %d: %v, %d bytes", size, off, errno, len(got))
		}
		off += uint64(size)
	}
	// At and beyond the end.
	if errno, got := k.ask(opRead, fileNode, ioBody(testBytes-512, 4096)); errno != 0 || len(got) != 512 {
		t.Errorf("across the end: %v, %d bytes", errno, len(got))
	}
	if errno, got := k.ask(opRead, fileNode, ioBody(testBytes, 4096)); errno != 0 || len(got) != 0 {
		t.Errorf("beyond the end: %v, %d bytes", errno, len(got))
	}
	if errno := k.write(testBytes-512, make([]byte, 1024)); errno != unix.EINVAL {
		t.Errorf("write across the end: %v", errno)
	}
}

// Every fsync of the kernel is a flush of the server, and a punched hole or
// zeroed range its write zeroes, with or without leave to free the space.
func TestWhatReachesTheServer(t *testing.T) {
	k := newKernel(t, false)
	if errno, _ := k.ask(opFsync, fileNode, u64(0), u32(1, 0)); errno != 0 {
		t.Fatal(errno)
	}
	for _, mode := range []uint32{fallocPunch, fallocZero, fallocZero | fallocKeep} {
		if errno, _ := k.ask(opFallocate, fileNode, u64(0, 8192, 4096), u32(mode, 0)); errno != 0 {
			t.Fatal(errno)
		}
	}
	var got []nbdtest.Call
	got = append(got, k.memory.Calls()...)
	if len(got) != 4 || got[0].Op != "Flush" || got[1].Op != "WriteZeroes" || got[1].NoHole || !got[2].NoHole || !got[3].NoHole || got[1].OffBytes != 8192 || got[1].LengthBytes != 4096 {
		t.Errorf("the server got %+v", got)
	}
	for _, bad := range []struct {
		off, n uint64
		mode   uint32
		want   unix.Errno
	}{{0, 4096, 0, unix.EOPNOTSUPP}, {0, 4096, unix.FALLOC_FL_COLLAPSE_RANGE, unix.EOPNOTSUPP}, {testBytes, 1, fallocPunch, unix.EFBIG}, {1, 1<<64 - 1, fallocPunch, unix.EFBIG}} {
		if errno, _ := k.ask(opFallocate, fileNode, u64(0, bad.off, bad.n), u32(bad.mode, 0)); errno != bad.want {
			t.Errorf("fallocate %+v: %v", bad, errno)
		}
	}
}

// What is malformed is answered with an error, and the next request is served.
func TestMalformedRequests(t *testing.T) {
	k := newKernel(t, false)
	for _, bad := range []struct {
		opcode uint32
		node   uint64
		body   []byte
	}{
		{opRead, fileNode, nil},
		{opRead, fileNode, make([]byte, ioBytes-1)},
		{opRead, rootNode, ioBody(0, 512)},
		{opRead, fileNode, ioBody(0, 1<<32-1)},
		{opWrite, fileNode, ioBody(0, 512)},
		{opWrite, fileNode, append(ioBody(0, 512), make([]byte, 511)...)},
		{opWrite, fileNode, append(ioBody(1<<64-512, 512), make([]byte, 512)...)},
		{opWrite, rootNode, append(ioBody(0, 512), make([]byte, 512)...)},
		{opFallocate, fileNode, make([]byte, fallocateBytes-1)},
		{opSetattr, fileNode, make([]byte, setattrBytes-1)},
		{opSetattr, fileNode, append(append(u32(setattrSize, 0), u64(0, 77)...), make([]byte, setattrBytes)...)},
		{opOpen, fileNode, nil},
		{opLookup, rootNode, []byte("disk")}, // without its end
		{opLookup, rootNode, []byte("other\x00")},
		{opLookup, fileNode, []byte("disk\x00")},
		{opGetattr, 77, nil},
		{opInterrupt, 0, nil},
		{9999, 0, nil},
	} {
		if errno, _ := k.ask(bad.opcode, bad.node, bad.body); errno == 0 {
			t.Errorf("request %d on %d with %d bytes went well", bad.opcode, bad.node, len(bad.body))
		}
	}
	if errno, body := k.ask(opLookup, rootNode, []byte("disk\x00")); errno != 0 || len(body) != 40+attrBytes || binary.NativeEndian.Uint64(body[48:]) != testBytes {
		t.Errorf("lookup: %v, %d bytes", errno, len(body))
	}
	if errno, body := k.ask(opGetattr, fileNode, make([]byte, 16)); errno != 0 || len(body) != 16+attrBytes {
		t.Errorf("getattr: %v, %d bytes", errno, len(body))
	}
	if errno, body := k.ask(opOpen, fileNode, u32(unix.O_RDWR, 0)); errno != 0 || len(body) != 16 {
		t.Errorf("open: %v, %d bytes", errno, len(body))
	}
	if errno, body := k.ask(opStatfs, rootNode); errno != 0 || len(body) != 80 {
		t.Errorf("statfs: %v, %d bytes", errno, len(body))
	}
}

func TestReadOnlyRefusesToOpenForWriting(t *testing.T) {
	k := newKernel(t, true)
	if errno, _ := k.ask(opOpen, fileNode, u32(unix.O_RDWR, 0)); errno != unix.EROFS {
		t.Errorf("open for writing: %v", errno)
	}
	if errno, _ := k.ask(opOpen, fileNode, u32(unix.O_RDONLY, 0)); errno != 0 {
		t.Errorf("open for reading: %v", errno)
	}
}

// Requests that arrive together are all answered, each with its own data.
func TestManyAtOnce(t *testing.T) {
	const many = 16 // what the socket takes: it is not /dev/fuse, to which an answer never waits
	k := newKernel(t, false)
	for i := range many {
		if errno := k.write(uint64(i)*4096, bytes.Repeat([]byte{byte(i)}, 4096)); errno != 0 {
			t.Fatal(errno)
		}
	}
	first := k.unique + 2
	for i := range many {
		k.send(opRead, fileNode, ioBody(uint64(i)*4096, 4096))
	}
	seen := map[uint64]bool{}
	p := make([]byte, 8192)
	for range many {
		n, err := unix.Read(k.fd, p)
		if err != nil || n != outHeaderBytes+4096 {
			t.Fatalf("answer of %d bytes: %v", n, err)
		}
		unique := binary.NativeEndian.Uint64(p[8:])
		i := (unique - first) / 2
		if seen[unique] || i >= many || !bytes.Equal(p[outHeaderBytes:n], bytes.Repeat([]byte{byte(i)}, 4096)) {
			t.Fatalf("answer to %d, the %d-th: wrong data, or twice", unique, i)
		}
		seen[unique] = true
	}
}

// cached is an export that answers at once, and a batch that writes down what it is
// told.
type cached struct {
	Export
	told []string
}

func (c *cached) Info() nbdclient.Info { return nbdclient.Info{SizeBytes: testBytes} }

func (c *cached) Submit(r *nbdclient.Request) {
	c.told = append(c.told, "submit")
	r.Done(r, nil)
}
func (c *cached) Send()     { c.told = append(c.told, "send") }
func (c *cached) Await(int) { c.told = append(c.told, "await") }
func (c *cached) Release()  {}

// TestRequestsWithoutEnd: what is held back is sent, and replies are looked for,
// also while the kernel always has one more request.
func TestRequestsWithoutEnd(t *testing.T) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	device := &Device{File: os.NewFile(uintptr(ends[0]), "device"), fd: ends[0], Settings: Settings{MaxWriteBytes: 4096}, greeted: true}
	defer func() { _ = device.File.Close() }()
	k := &kernel{t: t, fd: ends[1]}
	for range maxTaken + 1 {
		k.send(opRead, fileNode, ioBody(0, 512))
	}
	_ = unix.Close(ends[1]) // what was sent can be read, and then the end of it
	c := &cached{}
	server, err := NewServer(device, c, c, "disk", false, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(); err == nil {
		t.Error("the server took the end of the socket for an unmount")
	}
	want := append(slices.Repeat([]string{"submit"}, maxTaken), "send", "await", "submit")
	if !slices.Equal(c.told, want) {
		t.Errorf("the batch was told %v", c.told)
	}
}

func TestResumeChecksSettings(t *testing.T) {
	for _, bytes := range []int{-1, 0, 4095, maxKnownWriteBytes + 1} {
		if _, err := Resume(os.Stdin, Settings{MaxWriteBytes: bytes}); err == nil {
			t.Errorf("writes of up to %d bytes were accepted", bytes)
		}
	}
}
