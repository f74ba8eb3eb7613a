package volume

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/gc"
)

// An import whose attachment was detached can still be finished: what was
// written to it is there.
func TestFinishImportAfterDetach(t *testing.T) {
	ctx := context.Background()
	s := mustOpen(t, testOptions(t, vfs.NewMem()))
	id, a, err := s.BeginImport(ctx, "v", "one", mib)
	mustDo(t, err)
	d := must[*Device](t)(s.Open(ctx, a.ExportName, "importer", nil))
	want := pattern(1, mib)
	mustDo(t, d.WriteAt(ctx, want, 0, false))
	mustDo(t, s.Detach(ctx, a.ID))
	wantKind(t, d.WriteAt(ctx, want[:block.Size], 0, false), block.Fenced)
	mustDo(t, d.Close())
	must[SnapshotInfo](t)(s.FinishImport(ctx, id))
	same(t, "imported", readAll(t, openDevice(t, s, "v@one")), want)
}

// Space is exact also while layers are being merged.
func TestSpaceWhileMerging(t *testing.T) {
	const pages, lower = 600, 400 // of the volume; written before the snapshot
	ctx := context.Background()
	for range 5 {
		s := mustOpen(t, testOptions(t, vfs.NewMem()))
		must[Info](t)(s.Create(ctx, "v", pages*mib))
		d := must[*Device](t)(s.Open(ctx, "v", "test", nil))
		p := pattern(1, block.Size)
		for i := range uint64(pages) {
			if i == lower {
				must[SnapshotInfo](t)(s.Snapshot(ctx, "v", "s"))
			}
			mustDo(t, d.WriteAt(ctx, p, i*mib, false))
		}
		mustDo(t, d.Close())
		mustDo(t, s.DeleteSnapshot(ctx, "v", "s"))
		done := make(chan error)
		go func() {
			_, _, err := gc.New(s, gc.Options{}).Collect(ctx, false, nil)
			done <- err
		}()
		for merging := true; merging; {
			select {
			case err := <-done:
				mustDo(t, err)
				merging = false
			default:
			}
			u := must[Space](t)(s.Space(ctx, "v"))
			if u.LogicalBytes != pages*block.Size || u.ExclusiveBytes != pages*block.Size {
				t.Errorf("got %d logical and %d exclusive blocks, want %d of both", u.LogicalBytes/block.Size, u.ExclusiveBytes/block.Size, pages)
				merging = false
				mustDo(t, <-done)
			}
		}
		mustDo(t, s.Close())
	}
}
