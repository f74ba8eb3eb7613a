package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
	pruner "github.com/slackerd/slacker/image"
	"github.com/slackerd/slacker/naming"
)

// prune prunes what nobody has now.
func (f *testServer) prune(dryRun bool) (pruner.PruneResult, error) {
	c, err := f.client()
	if err != nil {
		return pruner.PruneResult{}, err
	}
	return pruner.Prune(context.Background(), pruner.PruneOptions{Prefix: naming.DefaultPrefix, DryRun: dryRun, Client: c})
}

// gone removes all of a snapshotter's snapshots and waits until their volumes
// are gone.
func gone(t *testing.T, s *Snapshotter) {
	t.Helper()
	must(t, removeAll(s))
	await(t, "the volumes of the worker are gone", func() bool {
		err := errors.Join(s.Cleanup(t.Context()), s.reaper.clear(t.Context(), now().Add(time.Hour)))
		left, lerr := s.server.list(t.Context(), s.names.own)
		return err == nil && lerr == nil && len(left) == 0
	})
}

// TestPrune: what a worker has, unpacked or found, stays (N9); what nobody has
// goes, and frees what the dry run said. The time is that since the last use.
func TestPrune(t *testing.T) {
	needDevices(t)
	f := startServer(t)
	a, b := newSnapshotter(t, f, noSpares), newSnapshotter(t, f, noSpares)
	chains := []string{chainID("pruned 0"), chainID("pruned 1"), chainID("pruned 2")}
	for _, s := range []*Snapshotter{a, b} {
		_, err := image(s, "run", chains)
		must(t, err)
	}
	wants := func(dryRun bool, chains, inUse int) pruner.PruneResult {
		t.Helper()
		r, err := f.prune(dryRun)
		must(t, err)
		if len(r.Chains) != chains || r.InUse != inUse {
			t.Fatalf("pruned %+v, want %d chains, %d in use", r, chains, inUse)
		}
		return r
	}
	wants(false, 0, 3)
	gone(t, a)
	wants(false, 0, 3) // b has found them
	top, err := b.store.childWithRef("", chains[0])
	must(t, err)
	two, err := b.store.childWithRef(top, chains[1])
	must(t, err)
	three, err := b.store.childWithRef(two, chains[2])
	must(t, err)
	must(t, b.Remove(t.Context(), three))
	await(t, "the pin is gone", func() bool {
		cerr := b.Cleanup(t.Context())
		r, err := f.prune(true)
		must(t, err)
		return cerr == nil && len(r.Chains) == 1
	})
	c, err := f.client()
	must(t, err)
	late, err := pruner.Prune(t.Context(), pruner.PruneOptions{Prefix: naming.DefaultPrefix, Unused: time.Hour, Client: c})
	if err != nil || late.Recent != 1 || late.InUse != 2 || len(late.Chains) != 0 {
		t.Fatalf("what was used less than an hour ago: %+v, %v", late, err)
	}
	would := wants(true, 1, 2)
	if did := wants(false, 1, 2); did.FreedBytes != would.FreedBytes || did.FreedBytes < block.Size {
		t.Errorf("freed %d bytes, the dry run said %d", did.FreedBytes, would.FreedBytes)
	}
	must(t, holdsAll(b, two, 2))
	gone(t, b)
	would = wants(true, 2, 0)
	if did := wants(false, 2, 0); did.FreedBytes != would.FreedBytes || did.FreedBytes < 2*block.Size {
		t.Errorf("freed %d bytes together, the dry run said %d", did.FreedBytes, would.FreedBytes)
	}
	top, err = image(a, "again", chains)
	must(t, err)
	must(t, holdsAll(a, top, 3))
}

// TestPruneRace: workers pull, unpack, run and remove the same chains while
// they are pruned all the time. Each has what it has: its chains exist and a
// container can be made (N9).
func TestPruneRace(t *testing.T) {
	f := startServer(t)
	shared := chainID("race shared")
	images := [][]string{{shared, chainID("race 1")}, {shared, chainID("race 2"), chainID("race 3")}}
	var workers, pruners errgroup.Group
	stop, pruned := make(chan struct{}), [2]int{}
	for i := range pruned {
		pruners.Go(func() error {
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				r, err := f.prune(false)
				if err != nil {
					return err
				}
				pruned[i] += len(r.Chains)
			}
		})
	}
	for w := range 3 {
		s := f.openWithout(t, noSpares)
		workers.Go(func() error {
			for round := range 15 {
				if err := useAndRemove(s, fmt.Sprint("round", round), images[(w+round)%2]); err != nil {
					return fmt.Errorf("worker %d, round %d: %w", w, round, err)
				}
			}
			return nil
		})
	}
	err := workers.Wait()
	close(stop)
	if err := errors.Join(err, pruners.Wait()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d chains were pruned meanwhile", pruned[0]+pruned[1])
}

// useAndRemove pulls or unpacks chains, makes a container, and removes all.
func useAndRemove(s *Snapshotter, run string, chains []string) error {
	ctx := context.Background()
	top, err := chainsOf(ctx, s, run, chains)
	if err != nil {
		return err
	}
	if _, err := s.Prepare(ctx, run+" container", top); err != nil {
		return err
	}
	for name, r := range s.store.all() {
		if r.Place == "" {
			continue
		}
		if _, err := s.server.find(ctx, r.Place); err != nil {
			return fmt.Errorf("the chain of %s: %w", name, err)
		}
	}
	return errors.Join(removeAll(s), s.Cleanup(ctx), s.reaper.clear(ctx, now().Add(time.Hour)))
}

// TestOldRecordsArePinned: records that were written before there were pins get
// theirs at the start (N9).
func TestOldRecordsArePinned(t *testing.T) {
	f := startServer(t)
	s := f.openWithout(t, noSpares)
	chain := chainID("old")
	top, err := chainsOf(t.Context(), s, "run", []string{chain})
	must(t, err)
	must(t, s.store.change(top, func(r *record) { r.Pin = "" }))
	o := s.o
	must(t, s.Close())
	s, err = openWith(o, noDevices{})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	await(t, "the record has a pin", func() bool {
		r, err := s.store.get(top)
		must(t, err)
		return r.Pin != ""
	})
	await(t, "the old pin is gone, and the new one is there", func() bool {
		cerr := s.Cleanup(t.Context())
		left, err := s.server.list(t.Context(), s.names.own)
		return cerr == nil && err == nil && len(left) == 1
	})
	if r, err := f.prune(false); err != nil || r.InUse != 1 || len(r.Chains) != 0 {
		t.Errorf("pruned %+v, %v, want the chain to stay", r, err)
	}
}

// TestOthersKeepChains: a clone that an admin made keeps a chain, too.
func TestOthersKeepChains(t *testing.T) {
	f := startServer(t)
	s := f.openWithout(t, noSpares)
	chain := chainID("cloned")
	_, err := chainsOf(t.Context(), s, "run", []string{chain})
	must(t, err)
	must(t, s.server.clone(t.Context(), s.names.prefix.Place(chain), "mine"))
	gone(t, s)
	if r, err := f.prune(false); err != nil || r.InUse != 1 || len(r.Chains) != 0 {
		t.Errorf("pruned %+v, %v, want the chain to stay", r, err)
	}
	c, err := f.client()
	must(t, err)
	_, err = c.DeleteVolume(t.Context(), connect.NewRequest(&slackerv1.DeleteVolumeRequest{Name: "mine"}))
	must(t, err)
	if r, err := f.prune(false); err != nil || len(r.Chains) != 1 || !strings.HasSuffix(r.Chains[0].Volume, chain[len("sha256:"):]) {
		t.Errorf("pruned %+v, %v, want the chain to go", r, err)
	}
}

// TestWorkerIsGone: the pins of a store that was not heard of since a time are
// released and no others (N10); one that comes back has them anew, unless what it
// had was pruned before.
func TestWorkerIsGone(t *testing.T) {
	f := startServer(t)
	c, err := f.client()
	must(t, err)
	workers := func(since time.Time, release bool) []pruner.WorkerStore {
		t.Helper()
		ws, err := pruner.Workers(t.Context(), pruner.WorkersOptions{Prefix: naming.DefaultPrefix, Since: since, Release: release, Client: c})
		must(t, err)
		return ws
	}
	beats := func(o *Options) { o.Spares, o.Beat = 0, time.Hour }
	silent := f.openWithout(t, noSpares)
	_, err = chainsOf(t.Context(), silent, "run", []string{chainID("of a store that says nothing")})
	must(t, err)
	shared, own := chainID("gone shared"), chainID("gone own")
	a := f.openWithout(t, beats)
	top, err := chainsOf(t.Context(), a, "run", []string{shared, own})
	must(t, err)
	await(t, "the store is heard of", func() bool { ws := workers(now(), false); return len(ws) == 2 && !ws[0].LastHeard.IsZero() })
	o := a.o
	must(t, a.Close())
	since := now()
	b := f.openWithout(t, beats)
	_, err = chainsOf(t.Context(), b, "run", []string{shared})
	must(t, err)
	await(t, "the other is heard of", func() bool { ws := workers(since, false); return len(ws) == 3 && ws[0].LastHeard.After(since) })

	ws := workers(since, true)
	for i, pins := range []int{1, 2, 1} { // there may be stepping stones too
		if w := ws[i]; w.Gone != (i == 1) || w.Empty < pins || (i == 1) != (w.Released > 0) || w.Released > 0 && w.Released != w.Empty {
			t.Errorf("store %d: %+v", i, w)
		}
	}
	if ws := workers(since, false); len(ws) != 2 {
		t.Errorf("after the release there are %+v", ws)
	}
	// It was away.
	a, err = openWith(o, noDevices{})
	must(t, err)
	await(t, "it has its pins again", func() bool {
		ws := workers(since, false)
		return len(ws) == 3 && ws[0].LastHeard.After(since) && ws[0].Empty >= 2
	})
	if r, err := f.prune(false); err != nil || len(r.Chains) != 0 || r.InUse != 3 {
		t.Errorf("pruned %+v, %v, of workers that live", r, err)
	}
	must(t, a.Close())
	since = now()
	workers(since, true) // of b too, which lives and has not said so since
	if r, err := f.prune(false); err != nil || len(r.Chains) != 2 || r.InUse != 1 {
		t.Errorf("pruned %+v, %v, want what only those have", r, err)
	}
	a, err = openWith(o, noDevices{})
	must(t, err)
	defer func() { must(t, a.Close()) }()
	await(t, "it is heard of", func() bool { ws := workers(since, false); return len(ws) > 1 && ws[0].LastHeard.After(since) })
	if _, err := a.Prepare(t.Context(), "container", top); !errdefs.IsNotFound(err) {
		t.Errorf("a container on a chain that is gone: %v", err)
	}
}
