package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a fake admin API and a real NBD server on one in-memory backend.
type server struct {
	slackerv1connect.UnimplementedAdminServiceHandler
	*nbdtest.Memory
	client slackerv1connect.AdminServiceClient
	addr   string

	mu        sync.Mutex
	aliases   map[string]string // what an export is called in memory
	sizes     map[string]uint64
	pending   map[string]string // import id: target
	published []*slackerv1.PublishRequest
	aborted   int
	failAbort bool
}

var slotSuffix = regexp.MustCompile(`\.[0-9]+\.[0-9]+$`)

// Open serves import.SLOT.INCARNATION and VOLUME@SNAPSHOT.
func (s *server) Open(ctx context.Context, name string, c nbdserver.Conn, d func(error)) (nbdserver.Device, error) {
	if strings.HasPrefix(name, "import-") {
		if !slotSuffix.MatchString(name) {
			return nil, block.Errorf(block.NotFound, "open %q: no slot", name)
		}
		name = slotSuffix.ReplaceAllString(name, "")
	}
	s.mu.Lock()
	if real, ok := s.aliases[name]; ok {
		name = real
	}
	s.mu.Unlock()
	return s.Memory.Open(ctx, name, c, d)
}

func (s *server) GetSnapshot(_ context.Context, r *connect.Request[slackerv1.GetSnapshotRequest]) (*connect.Response[slackerv1.GetSnapshotResponse], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	target := r.Msg.GetVolume() + "@" + r.Msg.GetSnapshot()
	if _, ok := s.aliases[target]; !ok {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("no snapshot %s", target))
	}
	return connect.NewResponse(&slackerv1.GetSnapshotResponse{}), nil
}

func (s *server) GetStatus(context.Context, *connect.Request[slackerv1.GetStatusRequest]) (*connect.Response[slackerv1.Status], error) {
	return connect.NewResponse(&slackerv1.Status{NbdAddresses: []string{s.addr}}), nil
}

func (s *server) BeginImport(_ context.Context, r *connect.Request[slackerv1.BeginImportRequest]) (*connect.Response[slackerv1.BeginImportResponse], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := fmt.Sprintf("import-%d", len(s.sizes))
	s.Add(id, nbdtest.DefaultInfo(r.Msg.GetSizeBytes()))
	s.sizes[id] = r.Msg.GetSizeBytes()
	s.pending[id] = r.Msg.GetVolume() + "@" + r.Msg.GetSnapshot()
	return connect.NewResponse(&slackerv1.BeginImportResponse{ImportId: id, Attachment: &slackerv1.Attachment{
		ExportName: id, SizeBytes: r.Msg.GetSizeBytes(), NbdAddresses: []string{s.addr}}}), nil
}

func (s *server) FinishImport(_ context.Context, r *connect.Request[slackerv1.FinishImportRequest]) (*connect.Response[slackerv1.Snapshot], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	target, ok := s.pending[r.Msg.GetImportId()]
	if !ok {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no such import"))
	}
	delete(s.pending, r.Msg.GetImportId())
	s.aliases[target] = r.Msg.GetImportId()
	return connect.NewResponse(&slackerv1.Snapshot{}), nil
}

func (s *server) AbortImport(_ context.Context, r *connect.Request[slackerv1.AbortImportRequest]) (*connect.Response[slackerv1.AbortImportResponse], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failAbort {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("gone"))
	}
	delete(s.pending, r.Msg.GetImportId())
	s.aborted++
	return connect.NewResponse(&slackerv1.AbortImportResponse{}), nil
}

func startServer(t *testing.T) *server {
	t.Helper()
	s := &server{Memory: nbdtest.NewMemory("unused", nbdtest.DefaultInfo(block.Size)),
		aliases: map[string]string{}, sizes: map[string]uint64{}, pending: map[string]string{}}
	nbd, err := nbdserver.New(s, nbdserver.Options{Limits: nbdserver.DefaultLimits()})
	if err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(shortDir(t), "nbd.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = "unix://" + sock
	served := make(chan error, 1)
	go func() { served <- nbd.Serve(context.Background(), l) }()
	_, handler := slackerv1connect.NewAdminServiceHandler(s)
	web := httptest.NewServer(handler)
	s.client = slackerv1connect.NewAdminServiceClient(web.Client(), web.URL)
	t.Cleanup(func() {
		web.Close()
		nbd.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if n := s.OpenDevices(); n != 0 {
			t.Errorf("%d devices are still open", n)
		}
		if len(s.pending) != 0 {
			t.Errorf("imports neither finished nor aborted: %v", s.pending)
		}
	})
	return s
}

// shortDir is a temporary directory whose path fits in a socket address.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "slk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// importOptions are options with a temporary directory that must be empty in
// the end.
func (s *server) importOptions(t *testing.T, source string) ImportOptions {
	t.Helper()
	temp := t.TempDir()
	t.Cleanup(func() {
		left, err := os.ReadDir(temp)
		if err != nil || len(left) != 0 {
			t.Errorf("temporary files are left: %v (%v)", left, err)
		}
	})
	return ImportOptions{Source: source, Target: "img@v1", Client: s.client, TempDir: temp}
}

// mustImport imports source and exports it again, as a raw file.
func (s *server) mustImport(t *testing.T, o ImportOptions) (Result, string) {
	t.Helper()
	res, err := Import(t.Context(), o)
	if err != nil {
		t.Fatalf("import %s: %v", o.Source, err)
	}
	out := filepath.Join(t.TempDir(), "out.raw")
	if _, err := Export(t.Context(), ExportOptions{Source: o.Target, Dest: out, Client: s.client}); err != nil {
		t.Fatalf("export: %v", err)
	}
	return res, out
}

// mustRefuse imports what has to be refused with an error of that kind whose
// text holds all of want, on one line.
func (s *server) mustRefuse(t *testing.T, o ImportOptions, kind block.Kind, want ...string) {
	t.Helper()
	_, err := Import(t.Context(), o)
	if err == nil {
		t.Fatalf("import of %s succeeded, want an error of kind %v", o.Source, kind)
	}
	if block.KindOf(err) != kind {
		t.Errorf("error %q is of kind %v, want %v", err, block.KindOf(err), kind)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q has several lines", err)
	}
	if _, err := s.client.GetSnapshot(t.Context(), connect.NewRequest(&slackerv1.GetSnapshotRequest{Volume: "img", Snapshot: "v1"})); err == nil {
		t.Errorf("the snapshot is there all the same")
	}
}

func sum(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x of %d bytes", sha256.Sum256(b), len(b))
}
