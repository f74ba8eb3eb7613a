package volume

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
)

// TestUseCounts: a page of the map is missed once and then hit; reads of what is
// in memory count apart from those that may wait for a disk.
func TestUseCounts(t *testing.T) {
	ctx := context.Background()
	o := testOptions(t, vfs.Default)
	o.Dir = filepath.Join(t.TempDir(), "store")
	s := mustOpen(t, o)
	must[Info](t)(s.Create(ctx, "v", mib))
	d := openDevice(t, s, "v")
	mustDo(t, d.WriteAt(ctx, pattern(1, 4*block.Size), 0, true))
	before := must[Status](t)(s.Status(ctx))
	if before.MapCache.Misses == 0 || before.MapCache.Pages == 0 || before.MapCache.Limit < before.MapCache.Pages {
		t.Errorf("after a write: %+v", before.MapCache)
	}
	p := make([]byte, 4*block.Size)
	if ok := must[bool](t)(d.ReadNow(p, 0)); !ok {
		t.Fatal("what was just written is not in memory")
	}
	now := must[Status](t)(s.Status(ctx))
	if now.MapCache.Hits <= before.MapCache.Hits || now.MapCache.Misses != before.MapCache.Misses {
		t.Errorf("a read of a page that is there: %+v, before %+v", now.MapCache, before.MapCache)
	}
	if now.Reads.Memory != before.Reads.Memory+1 || now.Reads.Disk != before.Reads.Disk {
		t.Errorf("a read from memory: %+v, before %+v", now.Reads, before.Reads)
	}
	mustDo(t, d.ReadAt(ctx, p, 0))
	if last := must[Status](t)(s.Status(ctx)); last.Reads.Disk != now.Reads.Disk+1 {
		t.Errorf("a read that may wait: %+v, before %+v", last.Reads, now.Reads)
	}
}
