package nbdclient

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

// startOurs serves a memory export "v" of 64 MiB with our own server.
func startOurs(t *testing.T) (memory *nbdtest.Memory, socket string) {
	t.Helper()
	memory = nbdtest.NewMemory("v", nbdtest.DefaultInfo(64<<20))
	server, err := nbdserver.New(memory, nbdserver.Options{Limits: nbdserver.DefaultLimits()})
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
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
	return memory, socket
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
