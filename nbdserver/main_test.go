package nbdserver_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/slackerd/slacker/nbdserver"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testTimeout = 60 * time.Second

// rig is a running server on a unix socket.
type rig struct {
	*nbdserver.Server
	path string
}

// start serves backend on a unix socket until the test ends.
func start(t testing.TB, backend nbdserver.Backend, change ...func(*nbdserver.Options)) *rig {
	t.Helper()
	o := nbdserver.Options{Limits: nbdserver.DefaultLimits()}
	for _, f := range change {
		f(&o)
	}
	s, err := nbdserver.New(backend, o)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "nbd.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve returned %v", err)
		}
	})
	return &rig{Server: s, path: path}
}

func (r *rig) uri(export string) string { return "nbd+unix:///" + export + "?socket=" + r.path }
