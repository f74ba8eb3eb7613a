package snapshotter

import (
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
)

var (
	treeSeed  = flag.Uint64("tree.seed", 0, "seed of the random tree; 0 takes one by chance")
	treeNodes = flag.Int("tree.nodes", 10, "how many snapshots the random tree has")
)

// dataBytes is what the server holds when its collector has been through.
func (f *testServer) dataBytes(t *testing.T) uint64 {
	t.Helper()
	c, err := f.client()
	must(t, err)
	stream, err := c.CollectGarbage(t.Context(), connect.NewRequest(&slackerv1.CollectGarbageRequest{}))
	must(t, err)
	for stream.Receive() {
		if e := stream.Msg().GetErrors(); len(e) > 0 {
			t.Fatalf("collect: %v", e)
		}
	}
	must(t, stream.Err())
	status, err := c.GetStatus(t.Context(), connect.NewRequest(&slackerv1.GetStatusRequest{}))
	must(t, err)
	return status.Msg.GetDataBytes()
}

// TestRandomTreeGoes: snapshots of all kinds, on each other by chance, are
// removed in any order, as far as others are not on them. In the end there is
// nothing of them at the server, to the byte; the chains are after a prune.
func TestRandomTreeGoes(t *testing.T) {
	needDevices(t)
	seed := *treeSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("replay with -tree.seed %d -tree.nodes %d", seed, *treeNodes)
	random := mathrand.New(mathrand.NewPCG(seed, 1))
	f := startServer(t)
	s := newSnapshotter(t, f, noSpares)
	ctx := t.Context()
	_, err := s.Prepare(ctx, "first", "") // makes the base
	must(t, err)
	must(t, s.Remove(ctx, "first"))
	gone(t, s)
	empty := f.dataBytes(t)

	parents := map[string]string{}
	committed := []string{""}
	for i := range *treeNodes {
		name := fmt.Sprint("node", i)
		parent := committed[random.IntN(len(committed))]
		kind := random.IntN(4)
		must(t, growTree(t, s, name, parent, kind))
		parents[name] = parent
		if kind < 2 {
			committed = append(committed, name)
		}
	}
	for len(parents) > 0 {
		names := make([]string, 0, len(parents))
		for name := range parents {
			names = append(names, name)
		}
		slices.Sort(names)
		name := names[random.IntN(len(names))]
		isParent := false
		for _, p := range parents {
			isParent = isParent || p == name
		}
		switch err := s.Remove(ctx, name); {
		case isParent && !errdefs.IsFailedPrecondition(err):
			t.Fatalf("remove %s, which others are on: %v", name, err)
		case !isParent:
			must(t, err)
			delete(parents, name)
		}
	}
	gone(t, s)
	_, err = f.prune(false)
	must(t, err)
	left, err := s.server.list(ctx, string(s.names.prefix)+"/")
	if err != nil || len(left) != 1 {
		t.Errorf("at the server there are %q, %v, want the base alone", left, err)
	}
	if now := f.dataBytes(t); now != empty {
		t.Errorf("the server holds %d bytes, before the tree it held %d", now, empty)
	}
}

// growTree adds a snapshot with a file of its own: a chain, a private one, an
// active one or a view.
func growTree(t *testing.T, s *Snapshotter, name, parent string, kind int) error {
	t.Helper()
	ctx, key := t.Context(), name
	if kind == 3 {
		_, err := s.View(ctx, name, parent)
		return err
	}
	var opts []snapshots.Opt
	if kind < 2 {
		key = "active " + name
	}
	if kind == 0 {
		opts = append(opts, snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: chainID(s.names.own + name)}))
	}
	ms, err := s.Prepare(ctx, key, parent, opts...)
	if err != nil {
		return err
	}
	err = mounted(ms, func(dir string) error {
		data := make([]byte, 100<<10)
		_, _ = rand.Read(data)
		return os.WriteFile(filepath.Join(dir, name), data, 0o644)
	})
	if kind < 2 {
		err = errors.Join(err, s.Commit(ctx, name, key, opts...))
	}
	return err
}
