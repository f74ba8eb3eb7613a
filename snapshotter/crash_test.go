package snapshotter

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
)

var killBefore = flag.Bool("kill.before", false, "kill the snapshotter before each call of the server too")

var errDead = errors.New("the process is dead")

// mortal is a client of the API that dies at its call number at: just before
// the server sees the call, or just after it has answered.
type mortal struct {
	slackerv1connect.AdminServiceClient
	mu    sync.Mutex
	calls int
	at    int
	after bool
	dead  bool
	die   func() // from then on nothing is written here either
}

func mortally[Q, A any](m *mortal, ctx context.Context, q *connect.Request[Q], call func(context.Context, *connect.Request[Q]) (*connect.Response[A], error)) (*connect.Response[A], error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	switch {
	case m.dead:
		return nil, errDead
	case m.calls != m.at:
		return call(ctx, q)
	}
	m.dead = true
	if m.after {
		_, _ = call(ctx, q)
	}
	m.die()
	return nil, errDead
}

func (m *mortal) Publish(ctx context.Context, q *connect.Request[slackerv1.PublishRequest]) (*connect.Response[slackerv1.Snapshot], error) {
	return mortally(m, ctx, q, m.AdminServiceClient.Publish)
}
func (m *mortal) CloneSnapshot(ctx context.Context, q *connect.Request[slackerv1.CloneSnapshotRequest]) (*connect.Response[slackerv1.Volume], error) {
	return mortally(m, ctx, q, m.AdminServiceClient.CloneSnapshot)
}
func (m *mortal) GetSnapshot(ctx context.Context, q *connect.Request[slackerv1.GetSnapshotRequest]) (*connect.Response[slackerv1.GetSnapshotResponse], error) {
	return mortally(m, ctx, q, m.AdminServiceClient.GetSnapshot)
}
func (m *mortal) DeleteVolume(ctx context.Context, q *connect.Request[slackerv1.DeleteVolumeRequest]) (*connect.Response[slackerv1.DeleteResponse], error) {
	return mortally(m, ctx, q, m.AdminServiceClient.DeleteVolume)
}
func (m *mortal) ListVolumes(ctx context.Context, q *connect.Request[slackerv1.ListVolumesRequest]) (*connect.Response[slackerv1.ListVolumesResponse], error) {
	return mortally(m, ctx, q, m.AdminServiceClient.ListVolumes)
}

func chainID(text string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text))) }

// mounted mounts and calls fn with the directory.
func mounted(ms []mount.Mount, fn func(dir string) error) error {
	dir, err := os.MkdirTemp("", "mounted")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(dir) }()
	if err := mount.All(ms, dir); err != nil {
		return err
	}
	return errors.Join(fn(dir), mount.UnmountAll(dir, 0))
}

// unpack does what an unpacker does for one layer, which is a file of its name.
// At the end the chain's name is a committed snapshot.
func unpack(s *Snapshotter, name, key, parent, chain, file string) error {
	ctx := context.Background()
	labels := snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: chain})
	ms, err := s.Prepare(ctx, key, parent, labels)
	if err != nil {
		return err
	}
	if err := mounted(ms, func(dir string) error { return os.WriteFile(filepath.Join(dir, file), []byte(file), 0o644) }); err != nil {
		return err
	}
	return s.Commit(ctx, name, key, labels)
}

// image unpacks layers until it has a name for the top chain; what is there
// already it takes, as containerd's metadata does.
func image(s *Snapshotter, run string, chains []string) (top string, err error) {
	for i, chain := range chains {
		name := fmt.Sprintf("%s/%s", run, chain)
		err := unpack(s, name, fmt.Sprintf("%s/extract-%d %s", run, i, chain), top, chain, fmt.Sprintf("layer%d", i))
		if errdefs.IsAlreadyExists(err) {
			if name, err = s.store.childWithRef(top, chain); err == nil && name == "" {
				err = errors.New("the chain that exists is not there")
			}
		}
		if err != nil {
			return "", err
		}
		top = name
	}
	return top, nil
}

// holdsAll checks in a view that every layer is there, and nothing else.
func holdsAll(s *Snapshotter, top string, layers int) error {
	ctx := context.Background()
	ms, err := s.View(ctx, "view of "+top, top)
	if err != nil {
		return err
	}
	err = mounted(ms, func(dir string) error {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != layers {
			return fmt.Errorf("%d entries, want %d: %w", len(entries), layers, err)
		}
		for i := range layers {
			want := fmt.Sprintf("layer%d", i)
			if b, err := os.ReadFile(filepath.Join(dir, want)); err != nil || string(b) != want {
				return fmt.Errorf("%s holds %q: %w", want, b, err)
			}
		}
		return nil
	})
	return errors.Join(err, s.Remove(ctx, "view of "+top))
}

// TestKilledAtEveryCall kills the snapshotter before and after each call of the
// server. The next one finds complete chains or none (N1), finishes the image,
// and leaves nothing behind (N3, N4).
func TestKilledAtEveryCall(t *testing.T) {
	needDevices(t)
	f := startServer(t)
	for at, died := 1, true; died; at++ {
		if *killBefore {
			f.killedAt(t, at, false)
		}
		died = f.killedAt(t, at, true)
		if at > 40 {
			t.Fatal("the script does not end")
		}
	}
}

func (f *testServer) killedAt(t *testing.T, at int, after bool) (died bool) {
	t.Helper()
	what := fmt.Sprintf("call %d, after %v", at, after)
	root := filepath.Join(t.TempDir(), "root")
	chains := []string{chainID(what + "0"), chainID(what + "1")}
	m := &mortal{at: at, after: after}
	opened := make(chan *Snapshotter, 1)
	m.die = func() {
		s := <-opened
		_ = s.store.close()
		opened <- s
	}
	s, err := f.open(root, func(o *Options) {
		m.AdminServiceClient = o.API
		o.API, o.Spares = m, 0
	})
	if err != nil {
		t.Fatal(err)
	}
	opened <- s
	top, err := image(s, "first", chains)
	if err == nil {
		_, err = s.Prepare(t.Context(), "container", top)
	}
	if err == nil {
		err = s.Remove(t.Context(), "container")
	}
	m.mu.Lock()
	died = m.dead
	m.mu.Unlock()
	if err != nil && !died {
		t.Fatalf("%s: %v", what, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = f.open(root, func(o *Options) { o.Spares = 0 })
	if err != nil {
		t.Fatal(err)
	}
	if top, err = image(s, "second", chains); err == nil {
		err = holdsAll(s, top, len(chains))
	}
	if err := errors.Join(err, emptyOut(s)); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	return died
}
