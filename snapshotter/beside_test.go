package snapshotter

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"golang.org/x/sys/unix"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/naming"
	"github.com/slackerd/slacker/stack"
)

// pullWith pulls with a snapshotter; discard drops the blobs of layers that are
// unpacked, as CRI's discard_unpacked_layers does.
func (h *host) pullWith(ref, snapshotter string, discard bool) {
	h.t.Helper()
	c, err := containerd.New(h.containerd.Address, containerd.WithDefaultNamespace("default"))
	must(h.t, err)
	defer func() { _ = c.Close() }()
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost))})
	labels := images.ChildGCLabels
	if discard {
		labels = images.ChildGCLabelsFilterLayers
	}
	_, err = c.Pull(h.t.Context(), ref, containerd.WithResolver(resolver), containerd.WithPullUnpack, containerd.WithPullSnapshotter(snapshotter),
		containerd.WithChildLabelMap(labels))
	if err != nil {
		h.t.Fatalf("pull %s with %s, layers discarded: %v: %v", ref, snapshotter, discard, err)
	}
}

// TestBesideOverlayfs: both snapshotters have the same images in the same
// containerd and namespace, layers discarded or not, whoever pulls first.
// Containers of both go on, and new ones start, after each of the snapshotter,
// containerd and slackerd was restarted; what one removes is not the other's.
func TestBesideOverlayfs(t *testing.T) {
	f, r, programs := startStack(t)
	for _, v := range newest(t, programs) {
		t.Run(string(v), func(t *testing.T) { besideOverlayfs(t, f, r, programs, v) })
	}
}

func besideOverlayfs(t *testing.T, f *testServer, r *stack.Registry, programs stack.Programs, v stack.Version) {
	t.Helper()
	h := startHost(t, f, programs, v, "")
	both := []string{"slacker", "overlayfs"}
	var refs, running []string
	ways := []struct{ discard, overlayfsFirst bool }{{false, false}, {true, true}, {true, false}, {false, true}}
	if testing.Short() {
		ways = ways[:2]
	}
	for i, way := range ways {
		ref := pushImage(t, r, fmt.Sprintf("beside-%s-%d", v, i), 2, 256<<10)
		order := slices.Clone(both)
		if way.overlayfsFirst {
			slices.Reverse(order)
		}
		for _, s := range order {
			h.pullWith(ref, s, way.discard)
		}
		refs = append(refs, ref)
	}
	start := func(ref, snapshotter string) string {
		id := fmt.Sprintf("%s-%s-%d", h.id(), snapshotter, len(running))
		h.ctr("run", "-d", "--snapshotter", snapshotter, "--net-host", ref, id, "/bin/busybox", "sleep", "1000")
		running = append(running, id)
		return id
	}
	say := func(id string) {
		t.Helper()
		if out := h.execIn(id, "cat", "/data/last"); strings.TrimSpace(out) != "1" {
			t.Errorf("%s says %q, want 1", id, out)
		}
	}
	for _, ref := range refs {
		for _, s := range both {
			say(start(ref, s))
		}
	}
	for what, restart := range map[string]func(){
		"the snapshotter": func() { h.snapshot.Kill(); h.startSnapshotter() },
		"containerd":      func() { h.containerd.KillDaemon(); h.startContainerd() },
		"slackerd":        func() { f.kill(); f.start() },
	} {
		restart()
		h.awaitSnapshotter()
		t.Logf("%s was killed and started", what)
		for _, id := range running {
			say(id)
		}
		say(start(refs[1], "slacker"))
	}
	h.removeOne(running, refs, say)
}

// removeOne removes the containers and snapshots of slacker, and wants those of
// overlayfs to be as they were.
func (h *host) removeOne(running, refs []string, say func(id string)) {
	h.t.Helper()
	for _, id := range running {
		if strings.Contains(id, "-slacker-") {
			h.ctr("tasks", "rm", "-f", id)
			h.ctr("containers", "rm", id)
		}
	}
	for _, id := range running {
		if !strings.Contains(id, "-slacker-") {
			say(id)
		}
	}
	for _, ref := range refs {
		h.ctr("images", "rm", "--sync", ref)
	}
	for _, id := range running {
		if !strings.Contains(id, "-slacker-") {
			say(id) // a container keeps its snapshots
		}
	}
}

func (h *host) awaitSnapshotter() {
	h.t.Helper()
	await(h.t, "containerd finds the snapshotter", func() bool {
		_, err := h.containerd.Ctr(h.t.Context(), "snapshots", "--snapshotter", "slacker", "ls")
		return err == nil
	})
}

// TestForeignStays: what others have at the server below the same names, and
// what is mounted where the snapshotter mounts, outlives all that the
// snapshotter does away with (N3).
func TestForeignStays(t *testing.T) {
	needDevices(t)
	f := startServer(t)
	s, err := f.open(filepath.Join(t.TempDir(), "root"), noSpares)
	must(t, err)
	ctx := t.Context()
	foreign := []string{
		strings.TrimSuffix(s.names.own, "-"), strings.TrimSuffix(s.names.own, "-") + "x-volume", // as a store of almost this name would have
		s.names.prefix.Work() + "another", s.names.prefix.Chains() + "mine", string(s.names.prefix) + "/base/mine", "elsewhere",
	}
	c, err := f.client()
	must(t, err)
	for _, name := range foreign {
		must(t, s.server.create(ctx, name, 1<<20))
		_, err := c.CreateSnapshot(ctx, connect.NewRequest(&slackerv1.CreateSnapshotRequest{Volume: name, Snapshot: "layer"}))
		must(t, err)
	}
	dir := filepath.Join(s.o.Root, "mnt", "foreign")
	must(t, os.Mkdir(dir, 0o755))
	must(t, unix.Mount("foreign", dir, "tmpfs", 0, ""))
	defer func() { must(t, unix.Unmount(dir, 0)) }()
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644))

	top, err := image(s, "run", []string{chainID("beside 0"), chainID("beside 1")})
	must(t, err)
	_, err = s.Prepare(ctx, "container", top)
	must(t, err)
	must(t, s.Close())
	s, err = f.open(s.o.Root, noSpares) // and after a restart, which searches
	must(t, err)
	gone(t, s)
	must(t, s.Cleanup(ctx))
	must(t, s.Close())
	for _, name := range foreign {
		if _, err := s.server.find(ctx, naming.PlaceOf(name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != "x" {
		t.Errorf("what was mounted there holds %q, %v", b, err)
	}
}
