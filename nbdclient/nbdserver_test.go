package nbdclient

import (
	"context"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

// startOurs serves a memory export "v" of 64 MiB with our own server.
func startOurs(t *testing.T) (memory *nbdtest.Memory, socket string) {
	t.Helper()
	return startOursAt(t, "unix", filepath.Join(t.TempDir(), "s"))
}

func startOursAt(t *testing.T, network, address string) (*nbdtest.Memory, string) {
	t.Helper()
	memory := nbdtest.NewMemory("v", nbdtest.DefaultInfo(64<<20))
	server, err := nbdserver.New(memory, nbdserver.Options{Limits: nbdserver.DefaultLimits()})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		server.Close()
		_ = l.Close()
		<-done
	})
	return memory, l.Addr().String()
}

func TestConnAgainstOurServer(t *testing.T) {
	_, socket := startOurs(t)
	exercise(t, dialTest(t, socket, "v"))
	if _, err := Dial(t.Context(), "unix://"+socket, "nope", testOptions()); !block.Is(err, block.NotFound) {
		t.Fatalf("unknown export: %v", err)
	}
	exports, err := List(t.Context(), "unix://"+socket, testOptions())
	if err != nil || len(exports) != 1 || exports[0].Name != "v" {
		t.Fatalf("list: %+v, %v", exports, err)
	}
}

func TestHandshakeForTheKernel(t *testing.T) {
	_, socket := startOurs(t)
	conn, info, err := DialKernel(t.Context(), Addr{"unix", socket}, "v", testOptions())
	if err != nil || info.SizeBytes != 64<<20 || info.Structured || !info.Flags.Has(FlagSendFlush|FlagCanMultiConn) {
		t.Fatalf("info %+v, %v", info, err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestAckTimeout: the kernel knows when to give a connection up, from its first packet.
func TestAckTimeout(t *testing.T) {
	_, addr := startOursAt(t, "tcp", "127.0.0.1:0")
	for _, want := range []time.Duration{0, 1500 * time.Millisecond} {
		o := testOptions()
		o.AckTimeout = want
		conn, _, err := DialKernel(t.Context(), Addr{"tcp", addr}, "v", o)
		if err != nil {
			t.Fatal(err)
		}
		f, err := conn.(*net.TCPConn).File()
		if err != nil {
			t.Fatal(err)
		}
		ms, err := unix.GetsockoptInt(int(f.Fd()), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		if err != nil || time.Duration(ms)*time.Millisecond != want {
			t.Errorf("the timeout is %d ms (%v), want %v", ms, err, want)
		}
		_ = f.Close()
		_ = conn.Close()
	}
}

// TestSubmittedFUA: a write with FUA is one whenever it is sent, be it again.
func TestSubmittedFUA(t *testing.T) {
	memory, socket := startOurs(t)
	memory.Record()
	var lost atomic.Bool
	memory.Hook = func(ctx context.Context, c nbdtest.Call) error {
		if c.Op == "WriteAt" && !lost.Swap(true) {
			memory.Disconnect(block.Errorf(block.Fenced, "thrown out by the test"))
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	opts := sessionOptions(1)
	opts.Attachment = false
	s, err := OpenSession(t.Context(), []string{"unix://" + socket}, "v", opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for _, n := range []int{4096, 64 << 10} {
		lost.Store(false)
		if err := submitAll(s, &Request{Op: OpWrite, Data: make([]byte, n), FUA: true}); err != nil {
			t.Fatal(err)
		}
	}
	calls := memory.Calls()
	for _, c := range calls {
		if !c.FUA {
			t.Errorf("%s of %d bytes without FUA", c.Op, c.LengthBytes)
		}
	}
	if len(calls) != 4 {
		t.Errorf("%d calls, want each write twice", len(calls))
	}
}

// TestServerDisconnects has the backend throw every connection out under load.
func TestServerDisconnects(t *testing.T) {
	memory, socket := startOurs(t)
	opts := sessionOptions(3)
	opts.Attachment = false
	s, err := OpenSession(t.Context(), []string{"unix://" + socket}, "v", opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	p := make([]byte, 4096)
	for i := range 300 {
		if i%50 == 25 {
			memory.Disconnect(block.Errorf(block.Fenced, "thrown out by the test"))
		}
		p[0] = byte(i)
		if err := s.WriteAt(t.Context(), p, uint64(i)*4096, i%10 == 0); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 4096)
		if err := s.ReadAt(t.Context(), got, uint64(i)*4096); err != nil || got[0] != byte(i) {
			t.Fatalf("block %d: %d, %v", i, got[0], err)
		}
	}
}
