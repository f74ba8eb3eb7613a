package snapshotter

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/worker"
)

// silence is a server that never answers.
type silence struct{}

func (silence) Do(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// stuck are devices on which nothing ends, whatever is asked.
type stuck struct{ noDevices }

func hang(ctx context.Context) error {
	<-ctx.Done()
	return block.Errorf(block.Unavailable, "hung: %w", context.Cause(ctx))
}
func (stuck) up(ctx context.Context, _ string, _ bool) (string, error) { return "", hang(ctx) }
func (stuck) format(ctx context.Context, _ string) error               { return hang(ctx) }
func (stuck) settled(ctx context.Context, _ string, _ func() error) (bool, error) {
	return false, hang(ctx)
}
func (stuck) down(ctx context.Context, _ string) error { return hang(ctx) }
func (stuck) inodes(string) (int64, bool, error)       { return 0, false, nil }

// TestEveryCallHasADeadline: with a server that never answers, and devices that
// hang, each of containerd's calls ends in time and says that the server is
// away; those that need no server do not even wait for others that do (N6).
func TestEveryCallHasADeadline(t *testing.T) {
	const timeout = time.Second
	o := DefaultOptions()
	o.Root, o.Timeout, o.Spares, o.Log = filepath.Join(t.TempDir(), "root"), timeout, 0, zap.NewNop()
	o.API, o.Worker = slackerv1connect.NewAdminServiceClient(silence{}, "http://silence"), &worker.Worker{}
	must(t, os.MkdirAll(o.Root, 0o755))
	s, err := openWith(o, stuck{})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	own := func(n string) string { return s.names.own + n }
	at := now()
	must(t, s.store.add("image", &record{Kind: snapshots.KindCommitted, Place: s.names.prefix.Place(chainID("x")), Pin: own("0"), Created: at, Updated: at}))
	for name, volume := range map[string]string{"container": own("1"), "removed": own("3")} {
		must(t, s.store.add(name, &record{Kind: snapshots.KindActive, Parent: "image", Volume: volume, Created: at, Updated: at}))
	}
	ctx := context.Background()               // containerd's own calls have none
	release, err := s.locks.lock(ctx, "held") // by a request that does not end
	must(t, err)
	chain := snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: chainID("y")})
	calls := map[string]func() error{
		"prepare on nothing": func() error { _, err := s.Prepare(ctx, "a", ""); return err },
		"prepare":            func() error { _, err := s.Prepare(ctx, "b", "image"); return err },
		"of a key in use":    func() error { _, err := s.Prepare(ctx, "held", "image"); return err },
		"remove of one":      func() error { return s.Remove(ctx, "held") },
		"prepare again":      func() error { _, err := s.Prepare(ctx, "b", "image"); return err },
		"pull":               func() error { _, err := s.Prepare(ctx, "c", "image", chain); return err },
		"pull again":         func() error { _, err := s.Prepare(ctx, "d", "image", chain); return err },
		"view":               func() error { _, err := s.View(ctx, "e", "image"); return err },
		"mounts":             func() error { _, err := s.Mounts(ctx, "container"); return err },
		"commit":             func() error { return s.Commit(ctx, "f", "container") },
		"usage of an image":  func() error { _, err := s.Usage(ctx, "image"); return err },
		"usage":              func() error { _, err := s.Usage(ctx, "container"); return err },
		"cleanup":            func() error { return s.Cleanup(ctx) },
	}
	var g errgroup.Group
	begun := time.Now()
	for what, call := range calls {
		g.Go(func() error {
			if err := call(); !errdefs.IsUnavailable(err) {
				t.Errorf("%s: %v, want unavailable", what, err)
			}
			return nil
		})
	}
	local := func() {
		_, err := s.Stat(ctx, "image")
		must(t, err)
		must(t, s.Walk(ctx, func(context.Context, snapshots.Info) error { return nil }))
		_, err = s.Update(ctx, snapshots.Info{Name: "image", Labels: map[string]string{"a": "b"}}, "labels.a")
		must(t, err)
	}
	local()
	must(t, s.Remove(ctx, "removed"))
	ended := make(chan struct{})
	go func() { _ = g.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(20 * timeout):
		t.Errorf("some calls go on after %v, want them to end after about %v", time.Since(begun), timeout)
	}
	release()
	<-ended
	local()
}
