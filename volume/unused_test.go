package volume

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sync/errgroup"

	"github.com/slackerd/slacker/block"
)

// TestDeleteUnused: what a volume was made of stays, and for a time after that
// volume went; then it goes (V11). The time outlives a restart.
func TestDeleteUnused(t *testing.T) {
	ctx := context.Background()
	now := time.Unix(1e9, 0).UTC()
	o := testOptions(t, vfs.NewMem())
	o.Now = func() time.Time { return now }
	s := mustOpen(t, o)
	must[Info](t)(s.Create(ctx, "v", mib))
	d := openDevice(t, s, "v")
	mustDo(t, d.WriteAt(ctx, pattern(1, 8192), 0, false))
	mustDo(t, d.Close())
	must[SnapshotInfo](t)(s.Publish(ctx, "v", "one@layer"))
	refused := func(name string, since time.Time) {
		t.Helper()
		_, err := s.DeleteUnused(ctx, name, since)
		wantKind(t, err, block.Busy)
	}
	hour := func(n int) time.Time { return time.Unix(1e9, 0).UTC().Add(time.Duration(n) * time.Hour) }
	refused("one", hour(1000)) // v is made of it
	now = hour(1)
	must[SnapshotInfo](t)(s.Publish(ctx, "v", "two@layer")) // now it is of two
	refused("one", hour(1))
	must[Info](t)(s.Clone(ctx, "one", "layer", "c"))
	refused("one", hour(1000))
	now = hour(2)
	must[[]string](t)(s.Delete(ctx, "c", false))
	if sn := must[SnapshotInfo](t)(s.GetSnapshot(ctx, "one", "layer")); !sn.LastUsed.Equal(hour(2)) {
		t.Errorf("last used at %v, want %v", sn.LastUsed, hour(2))
	}
	mustDo(t, s.Close())
	s = mustOpen(t, o)
	refused("one", hour(2))
	must[[]string](t)(s.DeleteUnused(ctx, "one", hour(3)))
	refused("two", hour(1000))
	must[[]string](t)(s.Delete(ctx, "v", false))
	refused("two", hour(2))
	must[[]string](t)(s.DeleteUnused(ctx, "two", hour(2).Add(1)))
}

// TestDeleteUnusedOrClone: of a clone and a deletion at the same time one wins,
// and the other is told so (V11).
func TestDeleteUnusedOrClone(t *testing.T) {
	ctx := context.Background()
	s := mustOpen(t, testOptions(t, vfs.NewMem()))
	must[Info](t)(s.Create(ctx, "v", mib))
	future, deleted := time.Now().Add(time.Hour), 0
	for i := range 200 {
		name, clone := fmt.Sprint("chain", i), fmt.Sprint("clone", i)
		must[SnapshotInfo](t)(s.Snapshot(ctx, "v", name))
		must[Info](t)(s.Clone(ctx, "v", name, "w"))
		must[SnapshotInfo](t)(s.Publish(ctx, "w", name+"@layer"))
		must[[]string](t)(s.Delete(ctx, "w", false))
		var g errgroup.Group
		var cloned, pruned error
		racers := []func() error{
			func() error { _, cloned = s.Clone(ctx, name, "layer", clone); return nil },
			func() error { _, pruned = s.DeleteUnused(ctx, name, future); return nil },
		}
		g.Go(racers[i%2]) // the one that is started last often goes first
		g.Go(racers[1-i%2])
		mustDo(t, g.Wait())
		if cloned == nil {
			wantKind(t, pruned, block.Busy)
			must[SnapshotInfo](t)(s.GetSnapshot(ctx, name, "layer"))
			continue
		}
		deleted++
		mustDo(t, pruned)
		wantKind(t, cloned, block.NotFound)
	}
	t.Logf("%d of 200 were deleted before they were cloned", deleted)
}

// TestWouldFreeTogether: of volumes that share data with each other only, all of
// it counts when all go.
func TestWouldFreeTogether(t *testing.T) {
	ctx := context.Background()
	s := mustOpen(t, testOptions(t, vfs.NewMem()))
	must[Info](t)(s.Create(ctx, "v", mib))
	d := openDevice(t, s, "v")
	for i, name := range []string{"one", "two", "three"} {
		mustDo(t, d.WriteAt(ctx, pattern(uint64(i), 16384), uint64(i)*8192, false)) // the half of it hides what the last wrote
		must[SnapshotInfo](t)(s.Publish(ctx, "v", name+"@layer"))
	}
	mustDo(t, d.Close())
	must[[]string](t)(s.Delete(ctx, "v", false))
	for _, c := range []struct {
		name string
		also []string
		want uint64
	}{
		{"one", nil, 8192}, {"two", nil, 8192}, {"three", nil, 16384},
		{"three", []string{"two"}, 32768}, {"one", []string{"three"}, 24576}, {"one", []string{"two", "three"}, 49152},
	} {
		freed, _, err := s.WouldFree(ctx, c.name, true, c.also...)
		if err != nil || freed != c.want {
			t.Errorf("%s with %v: %d bytes, %v, want %d", c.name, c.also, freed, err, c.want)
		}
	}
	if _, _, err := s.WouldFree(ctx, "one", true, "nothing"); !block.Is(err, block.NotFound) {
		t.Errorf("with a volume that is not there: %v", err)
	}
}
