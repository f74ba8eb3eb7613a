package volume

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
)

var (
	memoryVolumes = flag.Int("memory.volumes", 10_000, "volumes that exist in TestMemoryIsBounded")
	memoryOpen    = flag.Int("memory.open", 200, "volumes that are open in TestMemoryIsBounded")
	memoryBlocks  = flag.Int("memory.blocks", 100, "blocks that TestMemoryIsBounded writes in each")
)

// What a store may take beside its caches.
const (
	memoryPerVolume = 1 << 10 // a volume, its layer, its records while they are loaded
	memoryPerOpen   = 8 << 10 // a device, its range lock
	memoryFixed     = 8 << 20 // the log's buffers, Pebble
)

// addVolumes makes n volumes, every second one on parent, in one commit.
func addVolumes(t testing.TB, s *Store, prefix string, n int, parent *cow.Layer) {
	t.Helper()
	x := must[*cow.Tx](t)(s.begin())
	defer s.mu.Unlock()
	type made struct {
		r    cow.VolumeRecord
		head *cow.Layer
	}
	var ms []made
	for i := range n {
		p := parent
		if i%2 == 1 {
			p = nil
		}
		head := s.newHead(x, p)
		r := cow.VolumeRecord{ID: block.VolumeID(s.id(x)), Name: fmt.Sprintf("%s%06d", prefix, i), SizeBytes: 1 << 30,
			Created: s.o.Now(), Head: head.ID}
		x.PutVolume(&r)
		ms = append(ms, made{r, head})
	}
	mustDo(t, s.commit(x))
	for _, m := range ms {
		s.addVolume(m.r, m.head)
	}
}

// heap is the bytes in use on the heap.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestMemoryIsBounded: a store takes its configured caches, and a fixed amount
// for each volume that exists and each that is open, whatever is read and
// written, also when changes come faster than they are committed.
func TestMemoryIsBounded(t *testing.T) {
	ctx := context.Background()
	o := testOptions(t, vfs.Default)
	o.Dir, o.SegmentBytes, o.MapCacheBytes, o.PageCacheBytes = t.TempDir(), 64*mib, 4*mib, 8*mib
	s := mustOpen(t, o)
	must[Info](t)(s.Create(ctx, "base", 1<<30))
	must[SnapshotInfo](t)(s.Snapshot(ctx, "base", "s"))
	addVolumes(t, s, "v", *memoryVolumes, s.byName["base"].snaps["s"].layer)
	mustDo(t, s.Close())

	empty := heap()
	start := time.Now()
	s = mustOpen(t, o)
	took := time.Since(start)
	exist := heap() - empty
	var ds []*Device
	for i := range *memoryOpen {
		ds = append(ds, openDevice(t, s, fmt.Sprintf("v%06d", i)))
	}
	opened := heap() - empty
	var most int64
	p, r := pattern(1, block.Size), rand.New(rand.NewPCG(1, 2))
	for i := range *memoryBlocks {
		for _, d := range ds {
			off := r.Uint64N(1<<30/block.Size) * block.Size
			mustDo(t, d.WriteAt(ctx, p, off, false))
			mustDo(t, d.ReadAt(ctx, p, r.Uint64N(1<<30/block.Size)*block.Size))
			p[0] |= 1 // or a read of nothing would make it zero
		}
		if i%(*memoryBlocks/5) == 0 || i == *memoryBlocks-1 {
			most = max(most, heap()-empty)
		}
	}
	limit := o.MapCacheBytes + o.PageCacheBytes + int64(*memoryVolumes)*memoryPerVolume + int64(len(ds))*memoryPerOpen + memoryFixed
	t.Logf("%d volumes: %d KiB of heap, %d bytes each, opened in %v; %d of them open: %d KiB; in use: at most %d KiB of %d KiB",
		*memoryVolumes, exist>>10, exist/int64(*memoryVolumes), took, len(ds), opened>>10, most>>10, limit>>10)
	if most > limit {
		t.Errorf("the heap grew to %d bytes, want at most %d: %d of caches, %d for each volume, %d for each open one and %d",
			most, limit, o.MapCacheBytes+o.PageCacheBytes, memoryPerVolume, memoryPerOpen, memoryFixed)
	}
}
