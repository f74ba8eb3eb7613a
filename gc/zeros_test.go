package gc_test

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/segment"
	"github.com/slackerd/slacker/volume"
)

// TestZerosStayInTheLog: a segment with nothing but a trim in it goes, and the log
// still tells of what is trimmed, and no more of what was written again since (G5).
func TestZerosStayInTheLog(t *testing.T) {
	ctx := context.Background()
	s := open(t, vfs.NewMem())
	create(t, s, "v")
	put(t, s, "v", 0, 100, 1)
	mustDo(t, s.Flush(ctx))
	mustDo(t, s.Log().Rotate(ctx))
	d := must[*volume.Device](t)(s.Open(ctx, "v", "test", nil))
	mustDo(t, d.Trim(ctx, 0, 50*block.Size, true))
	mustDo(t, d.Close())
	trimmed := s.Log().Segments()[1].ID
	mustDo(t, s.Log().Rotate(ctx))
	put(t, s, "v", 20, 10, 2)
	mustDo(t, s.Flush(ctx))
	collect(t, s)
	zero := map[block.Index]bool{}
	for _, g := range s.Log().Segments() {
		if g.ID == trimmed {
			t.Errorf("segment %d, which has a trim only, is still there", g.ID)
		}
		mustDo(t, s.Log().Sync(ctx))
		mustDo(t, s.Log().Scan(ctx, g.ID, func(r segment.Record) error {
			for i := range block.Index(r.Count) {
				zero[r.First+i] = r.Kind == segment.Zero
			}
			return nil
		}))
	}
	for i := range block.Index(50) {
		if want := i < 20 || i >= 30; zero[i] != want {
			t.Errorf("the log says that block %d is zero: %v, want %v", i, zero[i], want)
		}
	}
	get(t, s, "v", 50, 50, 1)
	get(t, s, "v", 20, 10, 2)
	noDamage(t, s)
}
