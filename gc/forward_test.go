package gc_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/volume"
)

// TestForwardsGo: a volume that makes and drops snapshots for a long time keeps
// records of merged layers only as long as segments name them, also while there
// is a cold segment that is older than all (M8).
func TestForwardsGo(t *testing.T) {
	ctx := context.Background()
	const rounds = 60
	fs := vfs.NewMem()
	s := must[*volume.Store](t)(volume.Open(options(fs)))
	create(t, s, "cold")
	put(t, s, "cold", 0, 250, 1)
	create(t, s, "v")
	most := 0
	for i := range rounds {
		put(t, s, "v", 0, 120, byte(2+i))
		must[volume.SnapshotInfo](t)(s.Snapshot(ctx, "v", fmt.Sprint("s", i)))
		if i > 0 {
			mustDo(t, s.DeleteSnapshot(ctx, "v", fmt.Sprint("s", i-1)))
		}
		collect(t, s)
		most = max(most, s.Tree().Forwards())
		if i%20 == 10 {
			mustDo(t, s.Close())
			s = must[*volume.Store](t)(volume.Open(options(fs)))
		}
	}
	if most == 0 || most > 12 {
		t.Errorf("up to %d records of merged layers in %d rounds: want a few", most, rounds)
	}
	get(t, s, "cold", 0, 250, 1)
	get(t, s, "v", 0, 120, 1+rounds)
	noDamage(t, s)
	mustDo(t, s.Close())
}
