package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/certs"
	"github.com/slackerd/slacker/nbdclient"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	volumeBytes = 64 << 20
	// patience bounds what would take for ever after a failure.
	patience = 60 * time.Second
)

// server is an NBD server that takes nothing but TLS, of memory that outlives it. Its
// exports are v.SLOT.INCARNATION; an older connection of a slot is disconnected, and
// a write that it holds does not land, when a newer one comes.
type server struct {
	memory  *nbdtest.Memory
	opening func(slot string) // called for each connection; may wait
	addr    string
	config  *tls.Config
	client  certs.Files

	mu      sync.Mutex
	running *nbdserver.Server
	served  chan struct{}
	slots   map[string]func(error)
}

func newServer(t testing.TB) *server {
	t.Helper()
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	_, err := certs.Init(dir, "authority", time.Hour)
	for _, r := range []certs.Request{{Name: "server", Hosts: []string{"127.0.0.1"}}, {Name: "worker"}} {
		r.Valid = 10 * time.Minute
		_, ierr := certs.Issue(dir, r)
		err = errors.Join(err, ierr)
	}
	var source *certs.Source
	if err == nil {
		source, err = certs.NewSource(certs.Files{CA: file("ca.crt"), Cert: file("server.crt"), Key: file("server.key")}, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &server{memory: nbdtest.NewMemory("v", nbdtest.DefaultInfo(volumeBytes)), addr: "127.0.0.1:0", config: source.Server(),
		client: certs.Files{CA: file("ca.crt"), Cert: file("worker.crt"), Key: file("worker.key")}, slots: map[string]func(error){}}
	s.start(t)
	t.Cleanup(s.kill)
	return s
}

func (s *server) start(t testing.TB) {
	t.Helper()
	srv, err := nbdserver.New(s, nbdserver.Options{Limits: nbdserver.DefaultLimits(), TLS: s.config, TLSMode: nbdserver.TLSForced})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	s.addr, s.running, s.served = l.Addr().String(), srv, make(chan struct{})
	go func() { defer close(s.served); _ = srv.Serve(context.Background(), l) }()
}

// kill ends the server as a kill would, as far as that goes within a process.
func (s *server) kill() {
	s.running.Close()
	<-s.served
}

func (s *server) Open(ctx context.Context, name string, peer nbdserver.Conn, disconnect func(error)) (nbdserver.Device, error) {
	volume, slot, _ := strings.Cut(name, ".")
	slot, _, _ = strings.Cut(slot, ".")
	if s.opening != nil {
		s.opening(slot)
	}
	s.mu.Lock()
	if old := s.slots[slot]; old != nil {
		old(block.Errorf(block.Fenced, "replaced"))
	}
	s.slots[slot] = disconnect
	s.mu.Unlock()
	return s.memory.Open(ctx, volume, peer, disconnect)
}

func (s *server) List(context.Context, nbdserver.Conn) ([]nbdserver.Export, error) { return nil, nil }

// session opens a session with the server.
func (s *server) session(t testing.TB, connections int) *nbdclient.Session {
	t.Helper()
	o := nbdclient.DefaultSessionOptions()
	o.Connections, o.Attachment, o.Conn.TLS, o.DeadTimeout = connections, true, s.client.Client, patience
	session, err := nbdclient.OpenSession(t.Context(), []string{"tcp://" + s.addr}, "v", o)
	if err == nil {
		err = session.AwaitSlots(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.Close() })
	return session
}

// kernel is the kernel's side of a device: it speaks over a socket as the kernel
// does.
type kernel struct {
	*nbdclient.Conn
	socket *os.File
}

func newKernel(t testing.TB, socket *os.File, info nbdclient.Info) kernel {
	t.Helper()
	nc, err := net.FileConn(socket)
	if err != nil {
		t.Fatal(err)
	}
	info.Structured = false
	k := kernel{nbdclient.NewConn(nc, nbdclient.Addr{Network: "unix"}, info, 0), socket}
	t.Cleanup(func() { _ = k.Close(); _ = socket.Close() })
	return k
}

// device is a kernel with a link to a session.
func device(t testing.TB, s *nbdclient.Session) (kernel, *Link) {
	t.Helper()
	theirs, ours, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	return newKernel(t, theirs, s.Info()), serve(t, s, ours)
}

func serve(t testing.TB, s *nbdclient.Session, ours *os.File) *Link {
	t.Helper()
	l := Serve(s, ours, zap.NewNop())
	t.Cleanup(func() {
		l.Close()
		_ = s.Close() // whatever still waits for the server fails
		await(t, l.Drained(), "the link to be drained")
	})
	return l
}

func await(t testing.TB, what <-chan struct{}, name string) {
	t.Helper()
	select {
	case <-what:
	case <-time.After(patience):
		t.Fatalf("waited %v for %s", patience, name)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
