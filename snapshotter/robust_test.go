package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/naming"
)

// newSnapshotter opens one that is emptied at the end of the test.
func newSnapshotter(t *testing.T, f *testServer, change func(*Options)) *Snapshotter {
	t.Helper()
	s, err := f.open(filepath.Join(t.TempDir(), "root"), change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := emptyOut(s); err != nil {
			t.Error(err)
		}
	})
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func noSpares(o *Options) { o.Spares = 0 }

// TestTwoWorkersAtOnce: both unpack the same image at the same time, and have
// it whole; at the server there is one of each chain (N1).
func TestTwoWorkersAtOnce(t *testing.T) {
	needDevices(t)
	f := startServer(t)
	chains := []string{chainID("both 0"), chainID("both 1"), chainID("both 2")}
	workers := []*Snapshotter{newSnapshotter(t, f, noSpares), newSnapshotter(t, f, noSpares)}
	var g errgroup.Group
	for i, s := range workers {
		g.Go(func() error {
			top, err := image(s, fmt.Sprint("worker", i), chains)
			if err != nil {
				return err
			}
			return holdsAll(s, top, len(chains))
		})
	}
	must(t, g.Wait())
	list, err := workers[0].server.list(t.Context(), workers[0].names.prefix.Chains())
	if err != nil || len(list) != len(chains) {
		t.Fatalf("chains at the server: %v, %v, want %d", list, err, len(chains))
	}
	for _, s := range workers {
		for name, r := range s.store.all() {
			if r.Place != s.names.prefix.Place(r.Labels[snapshots.LabelSnapshotRef]) {
				t.Errorf("%s is at %s, want the chain that all share", name, r.Place)
			}
		}
	}
}

// TestPublishedByOther: a chain that another worker publishes while this one
// unpacks it is what this one then has, its own work goes (N1, N2).
func TestPublishedByOther(t *testing.T) {
	needDevices(t)
	f := startServer(t)
	a, b := newSnapshotter(t, f, noSpares), newSnapshotter(t, f, noSpares)
	chain := chainID("raced")
	labels := snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: chain})
	ms, err := b.Prepare(t.Context(), "key", "", labels)
	must(t, err)
	must(t, mounted(ms, func(dir string) error { return os.WriteFile(filepath.Join(dir, "layer0"), []byte("layer0"), 0o644) }))
	must(t, unpack(a, "name", "key", "", chain, "layer0"))
	must(t, b.Commit(t.Context(), "name", "key", labels))
	must(t, holdsAll(b, "name", 1))
	ra, err := a.store.get("name")
	must(t, err)
	rb, err := b.store.get("name")
	must(t, err)
	if ra.Place != rb.Place {
		t.Errorf("the same chain is at %s and at %s", ra.Place, rb.Place)
	}
}

// readers may only use chains.
type readers struct {
	slackerv1connect.AdminServiceClient
}

func (c readers) Publish(ctx context.Context, q *connect.Request[slackerv1.PublishRequest]) (*connect.Response[slackerv1.Snapshot], error) {
	if strings.Contains(q.Msg.GetNewVolume(), "/chains/") {
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("admin is wanted"))
	}
	return c.AdminServiceClient.Publish(ctx, q)
}

// TestMayNotPublish: what such a worker unpacks stays its own, and works.
func TestMayNotPublish(t *testing.T) {
	needDevices(t)
	f := startServer(t)
	s := newSnapshotter(t, f, func(o *Options) { o.API, o.Spares = readers{o.API}, 0 })
	chains := []string{chainID("own 0"), chainID("own 1")}
	top, err := image(s, "run", chains)
	must(t, err)
	must(t, holdsAll(s, top, len(chains)))
	list, err := s.server.list(t.Context(), s.names.prefix.Chains())
	if err != nil || len(list) > 0 {
		t.Errorf("chains at the server: %v, %v, want none", list, err)
	}
}

// TestUsageIsExact: a layer's usage is what it wrote, on the worker that wrote
// it and on one that found it; a container's is what it has written (N8).
func TestUsageIsExact(t *testing.T) {
	needDevices(t)
	f := startServer(t)
	a, b := newSnapshotter(t, f, noSpares), newSnapshotter(t, f, noSpares)
	chains := []string{chainID("usage 0"), chainID("usage 1")}
	var sizes []int64
	for _, s := range []*Snapshotter{a, b} {
		top, err := image(s, "run", chains)
		must(t, err)
		u, err := s.Usage(t.Context(), top)
		must(t, err)
		sizes = append(sizes, u.Size)
	}
	if sizes[0] != sizes[1] || sizes[0] < 4096 || sizes[0] > 1<<20 {
		t.Errorf("the layer takes %d bytes, found by another worker %d, want the same", sizes[0], sizes[1])
	}
	top, err := b.store.childWithRef("", chains[0])
	must(t, err)
	ms, err := b.Prepare(t.Context(), "container", top)
	must(t, err)
	before, err := b.Usage(t.Context(), "container")
	must(t, err)
	const written = 3 << 20
	must(t, mounted(ms, func(dir string) error {
		data := make([]byte, written)
		_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
		file, err := os.Create(filepath.Join(dir, "data"))
		if err != nil {
			return err
		}
		_, err = file.Write(data)
		return errors.Join(err, file.Sync(), file.Close())
	}))
	after, err := b.Usage(t.Context(), "container")
	must(t, err)
	if grown := after.Size - before.Size; grown < written || grown > written+256<<10 {
		t.Errorf("the container grew by %d bytes, want %d and some metadata", grown, written)
	}
}

// TestCommitWhileRunning: a container that runs is committed as of one moment,
// and goes on (N5).
func TestCommitWhileRunning(t *testing.T) {
	needDevices(t)
	f := startServer(t)
	s := newSnapshotter(t, f, noSpares)
	ms, err := s.Prepare(t.Context(), "container", "")
	must(t, err)
	dir := t.TempDir()
	must(t, mount.All(ms, dir))
	unmounted := false
	defer func() {
		if !unmounted {
			_ = mount.UnmountAll(dir, 0)
		}
	}()
	must(t, os.WriteFile(filepath.Join(dir, "before"), []byte("before"), 0o644))
	must(t, s.Commit(t.Context(), "committed", "container"))
	if err := os.WriteFile(filepath.Join(dir, "after"), []byte("after"), 0o644); err != nil {
		t.Errorf("the container cannot write any more: %v", err)
	}
	ms, err = s.View(t.Context(), "view", "committed")
	must(t, err)
	must(t, mounted(ms, func(dir string) error {
		if b, err := os.ReadFile(filepath.Join(dir, "before")); err != nil || string(b) != "before" {
			return fmt.Errorf("what was written before is %q: %w", b, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "after")); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("what was written after is there: %w", err)
		}
		return nil
	}))
	// Its volume is garbage, but in use: it stays until it is not.
	must(t, os.WriteFile(filepath.Join(dir, "later"), nil, 0o644))
	unmounted = true
	must(t, mount.UnmountAll(dir, 0))
}

// TestServerAway: requests fail in time as unavailable, what needs no server
// works, and a mounted container goes on when the server is back (N6).
func TestServerAway(t *testing.T) {
	needDevices(t)
	f := startServer(t)
	s := newSnapshotter(t, f, func(o *Options) { o.Timeout, o.Spares = 2*time.Second, 0 })
	top, err := image(s, "run", []string{chainID("away")})
	must(t, err)
	ms, err := s.Prepare(t.Context(), "container", top)
	must(t, err)
	_, err = s.Prepare(t.Context(), "removed", top)
	must(t, err)
	refused := func() {
		t.Helper()
		begun := time.Now()
		var g errgroup.Group
		for what, do := range map[string]func() error{
			"prepare": func() error { _, err := s.Prepare(t.Context(), "other", top); return err },
			"pull": func() error {
				_, err := s.Prepare(t.Context(), "extract", "", snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: chainID("x")}))
				return err
			},
			"view":   func() error { _, err := s.View(t.Context(), "view", top); return err },
			"usage":  func() error { _, err := s.Usage(t.Context(), "container"); return err },
			"commit": func() error { return s.Commit(t.Context(), "committed", "container") },
		} {
			g.Go(func() error {
				if err := do(); !errdefs.IsUnavailable(err) {
					t.Errorf("%s without a server: %v, want unavailable", what, err)
				}
				return nil
			})
		}
		_ = g.Wait()
		if took := time.Since(begun); took > 30*time.Second {
			t.Errorf("requests took %v with a timeout of 2s", took)
		}
	}
	f.pause()
	refused()
	must(t, f.cmd.Process.Signal(unix.SIGCONT))
	f.kill()
	refused()
	must(t, s.Remove(t.Context(), "removed"))
	_, err = s.Stat(t.Context(), top)
	must(t, err)
	must(t, s.Walk(t.Context(), func(context.Context, snapshots.Info) error { return nil }))
	f.start()
	must(t, mounted(ms, func(dir string) error { return os.WriteFile(filepath.Join(dir, "new"), []byte("new"), 0o644) }))
	_, err = s.Prepare(t.Context(), "other", top)
	must(t, err)
	must(t, s.Commit(t.Context(), "committed", "container"))
}

// fullServer refuses to publish anything but the empty file system.
type fullServer struct {
	slackerv1connect.AdminServiceClient
}

func (c fullServer) Publish(ctx context.Context, q *connect.Request[slackerv1.PublishRequest]) (*connect.Response[slackerv1.Snapshot], error) {
	if strings.Contains(q.Msg.GetNewVolume(), "/base/") {
		return c.AdminServiceClient.Publish(ctx, q)
	}
	return nil, connect.NewError(connect.CodeResourceExhausted, errors.New("the store is full"))
}

// TestStaleMounts: a commit that fails after it has unmounted the file system
// leaves no directory that old mounts could write to; Mounts gives new ones.
func TestStaleMounts(t *testing.T) {
	needDevices(t)
	f := startServer(t)
	s := newSnapshotter(t, f, func(o *Options) { o.API, o.Spares = fullServer{o.API}, 0 })
	stale, err := s.Prepare(t.Context(), "container", "")
	must(t, err)
	write := func(dir string) error { return os.WriteFile(filepath.Join(dir, "file"), nil, 0o644) }
	must(t, mounted(stale, write))
	if err := s.Commit(t.Context(), "committed", "container"); err == nil {
		t.Fatal("committed on a full server")
	}
	if err := mounted(stale, write); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("mounts of before the commit: %v, want none such", err)
	}
	ms, err := s.Mounts(t.Context(), "container")
	must(t, err)
	must(t, mounted(ms, func(dir string) error { _, err := os.Stat(filepath.Join(dir, "file")); return err }))
}

// TestSpares: what was pulled last is attached before it is asked for, is used
// once, and after its time it is taken down.
func TestSpares(t *testing.T) {
	needDevices(t)
	f := startServer(t)
	chains := []string{chainID("spare 0"), chainID("spare 1")}
	_, err := image(newSnapshotter(t, f, noSpares), "first", chains)
	must(t, err)
	s := newSnapshotter(t, f, nil)
	top, err := image(s, "second", chains)
	must(t, err)
	place := s.names.prefix.Place(chains[1])
	await(t, "a spare", func() bool { _, spare := s.stones.find(place); return spare != nil })
	ms, err := s.Prepare(t.Context(), "container", top)
	must(t, err)
	must(t, mounted(ms, func(dir string) error {
		_, err := os.Stat(filepath.Join(dir, "layer1"))
		return errors.Join(err, os.WriteFile(filepath.Join(dir, "own"), nil, 0o644))
	}))
	await(t, "another spare", func() bool { _, spare := s.stones.find(place); return spare != nil })
	ms, err = s.Prepare(t.Context(), "other", top)
	must(t, err)
	must(t, mounted(ms, func(dir string) error {
		if _, err := os.Stat(filepath.Join(dir, "own")); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("one container sees the other's file: %w", err)
		}
		return nil
	}))
}

// TestRebooted: after the devices have gone, Mounts brings them back with what
// was written, and a commit works too.
func TestRebooted(t *testing.T) {
	needDevices(t)
	f := startServer(t)
	s := newSnapshotter(t, f, noSpares)
	ms, err := s.Prepare(t.Context(), "container", "")
	must(t, err)
	must(t, mounted(ms, func(dir string) error { return os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644) }))
	gone := func() {
		r, err := s.store.get("container")
		must(t, err)
		d := s.devices.(*workerDevices)
		must(t, unmount(d.mountDir(r.Volume)))
		_, err = d.worker.Detach(t.Context(), r.Volume, false)
		must(t, err)
	}
	gone()
	ms, err = s.Mounts(t.Context(), "container")
	must(t, err)
	has := func(dir string) error { _, err := os.Stat(filepath.Join(dir, "file")); return err }
	must(t, mounted(ms, has))
	gone()
	must(t, s.Commit(t.Context(), "committed", "container"))
	ms, err = s.View(t.Context(), "view", "committed")
	must(t, err)
	must(t, mounted(ms, has))
}

// TestChainGone: a chain that an admin has deleted is not found for new
// containers; those that run go on, and unpacking makes it anew.
func TestChainGone(t *testing.T) {
	needDevices(t)
	f := startServer(t)
	s := newSnapshotter(t, f, noSpares)
	chain := chainID("gone")
	top, err := image(s, "run", []string{chain})
	must(t, err)
	ms, err := s.Prepare(t.Context(), "container", top)
	must(t, err)
	must(t, s.server.delete(t.Context(), naming.VolumeOf(s.names.prefix.Place(chain))))
	must(t, mounted(ms, func(dir string) error {
		if b, err := os.ReadFile(filepath.Join(dir, "layer0")); err != nil || string(b) != "layer0" {
			return fmt.Errorf("the container reads %q: %w", b, err)
		}
		return os.WriteFile(filepath.Join(dir, "new"), []byte("new"), 0o644)
	}))
	if _, err := s.Prepare(t.Context(), "other", top); !errdefs.IsNotFound(err) {
		t.Errorf("a container on a chain that is gone: %v, want not found", err)
	}
	must(t, s.Remove(t.Context(), "container"))
	must(t, s.Remove(t.Context(), top))
	top, err = image(s, "again", []string{chain})
	must(t, err)
	must(t, holdsAll(s, top, 1))
}

// TestNotOurs: nothing but volumes of this store is ever deleted (N3).
func TestNotOurs(t *testing.T) {
	needDevices(t)
	f := startServer(t)
	s, other := newSnapshotter(t, f, noSpares), newSnapshotter(t, f, noSpares)
	_, err := other.Prepare(t.Context(), "container", "")
	must(t, err)
	must(t, other.Commit(t.Context(), "committed", "container")) // nobody has it attached
	r, err := other.store.get("committed")
	must(t, err)
	theirs, err := other.server.list(t.Context(), naming.VolumeOf(r.Place))
	must(t, err)
	must(t, s.store.addGarbage(theirs...))
	if err := s.Cleanup(t.Context()); err == nil {
		t.Error("garbage that is not ours was no error")
	}
	must(t, s.store.forgetGarbage(theirs[0]))
	if now, err := other.server.list(t.Context(), theirs[0]); err != nil || len(now) != 1 {
		t.Errorf("of %v there is %v, %v", theirs, now, err)
	}
	// And of ours only what no record needs.
	_, err = s.Prepare(t.Context(), "container", "")
	must(t, err)
	r, err = s.store.get("container")
	must(t, err)
	must(t, s.store.addGarbage(r.Volume))
	must(t, s.Cleanup(t.Context()))
	if _, err := s.Mounts(t.Context(), "container"); err != nil {
		t.Error(err)
	}
	if _, err := s.server.headBytes(t.Context(), r.Volume); err != nil {
		t.Errorf("a volume that a record names: %v", err)
	}
	must(t, s.store.forgetGarbage(r.Volume))
}

// TestStones: a stone goes to a child of what it holds, once, and only there
// (N7); what waited too long is taken down (N4).
func TestStones(t *testing.T) {
	var s stones
	s.put(stone{volume: "v", place: "place"}, time.Hour)
	s.put(stone{volume: "w", place: "place"}, time.Hour)
	var taken []string
	take := func(place string) string { return s.take(place, func(v string) { taken = append(taken, v) }) }
	if v := take("another"); v != "" {
		t.Errorf("took %s, which holds something else", v)
	}
	if v, w := take("place"), take("place"); v != "v" || w != "w" || take("place") != "" || len(taken) != 2 {
		t.Errorf("took %s and %s, told of %v", v, w, taken)
	}
	s.put(stone{volume: "x", place: "place"}, time.Hour)
	s.put(stone{volume: "y", place: "place"}, 2*time.Hour)
	if gone := s.expire(time.Now().Add(90 * time.Minute)); len(gone) != 1 || gone[0] != "x" || s.has("x") || !s.has("y") {
		t.Errorf("expired %v", gone)
	}
}

// TestUsageCountsInodes: a layer has the inodes that it adds, on the worker that
// unpacked it and on one that found it; a container those it has made (N8).
func TestUsageCountsInodes(t *testing.T) {
	needDevices(t)
	f := startServer(t)
	chains := []string{chainID("inodes 0"), chainID("inodes 1")}
	inodes := func(s *Snapshotter, name string) int64 {
		t.Helper()
		u, err := s.Usage(t.Context(), name)
		must(t, err)
		return u.Inodes
	}
	for _, s := range []*Snapshotter{newSnapshotter(t, f, noSpares), newSnapshotter(t, f, noSpares)} {
		top, err := image(s, "run", chains)
		must(t, err)
		below, err := s.store.childWithRef("", chains[0])
		must(t, err)
		if a, b := inodes(s, below), inodes(s, top); a != 1 || b != 1 {
			t.Errorf("two layers of one file each have %d and %d inodes", a, b)
		}
		ms, err := s.Prepare(t.Context(), "container", top)
		must(t, err)
		if n := inodes(s, "container"); n != 0 {
			t.Errorf("a new container has %d inodes", n)
		}
		must(t, mounted(ms, func(dir string) error {
			var errs []error
			for i := range 10 {
				errs = append(errs, os.Mkdir(filepath.Join(dir, fmt.Sprint(i)), 0o755))
			}
			return errors.Join(append(errs, os.Remove(filepath.Join(dir, "layer0")))...)
		}))
		if n := inodes(s, "container"); n != 9 {
			t.Errorf("10 directories more and a file less are %d inodes", n)
		}
		must(t, s.Commit(t.Context(), "committed", "container"))
		if n := inodes(s, "committed"); n != 9 {
			t.Errorf("committed, they are %d inodes", n)
		}
	}
}
