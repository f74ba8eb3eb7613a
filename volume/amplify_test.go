package volume

import (
	"context"
	"flag"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/gc"
	"go.uber.org/zap"
)

var (
	fillTimes = flag.Float64("fill.times", 0.4, "how many times the capacity TestFourFifthsFull overwrites")
	fillMiB   = flag.Int64("fill.mib", 48, "the capacity of TestFourFifthsFull's disk")
)

// TestFourFifthsFull overwrites blocks at random on a disk whose live data is
// four fifths of it. No write is refused, what the segments take is never more
// than 1.3 times what lives in them, and everything reads as written.
func TestFourFifthsFull(t *testing.T) {
	ctx := context.Background()
	capacity := *fillMiB * mib
	fs := newQuotaFS(vfs.NewMem(), capacity)
	var c *gc.Collector
	s := must[*Store](t)(Open(Options{Dir: "store", FS: fs, SegmentBytes: mib, SpareSegments: 2, MapCacheBytes: 1 << 20, PageCacheBytes: 16 << 20,
		CommitInterval: time.Hour, ReserveBytes: 4 * mib, Logger: zap.NewNop(), OnSealed: func() { c.Sealed() },
		MakeRoom: func(ctx context.Context) bool { return c.MakeRoom(ctx) }}))
	c = gc.New(s, gc.Options{Interval: time.Hour})
	background, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { c.Run(background) })

	live := capacity / 5 * 4 / block.Size
	must[Info](t)(s.Create(ctx, "v", uint64(live)*block.Size))
	d := must[*Device](t)(s.Open(ctx, "v", "test", nil))
	tags := make([]tag, live)
	next := tag(0)
	write := func(i, n int64) {
		t.Helper()
		b := make([]byte, n*block.Size)
		for k := range n {
			next++
			tags[i+k] = next
			next.fill(b[k*block.Size : (k+1)*block.Size])
		}
		mustDo(t, d.WriteAt(ctx, b, uint64(i)*block.Size, false))
	}
	for i := int64(0); i < live; i += 64 {
		write(i, min(64, live-i))
	}
	rng := rand.New(rand.NewPCG(1, 1))
	worst := 0.0
	for i := range int64(float64(capacity/block.Size) * *fillTimes / float64(sampled(1, 8))) {
		write(rng.Int64N(live), 1)
		if i%64 == 0 {
			worst = max(worst, float64(s.log.DiskBytes())/float64(live*block.Size))
		}
	}
	if worst > 1.3 {
		t.Errorf("the segments took up to %.2f times the live data: want at most 1.3", worst)
	}
	t.Logf("%d MiB live of %d MiB: the segments took up to %.3f times that; %d segments were emptied", live*block.Size/mib, capacity/mib, worst, s.log.Deleted())
	b := make([]byte, block.Size)
	for i, want := range tags {
		mustDo(t, d.ReadAt(ctx, b, uint64(i)*block.Size))
		if got, whole := tagOf(b); got != want || !whole {
			t.Fatalf("block %d holds %d (whole: %v), want %d", i, got, whole, want)
		}
	}
	mustDo(t, d.Close())
	stop()
	done.Wait()
	for _, x := range must[[]any](t)((&disk{s: s}).damages()) {
		t.Error(x)
	}
	mustDo(t, s.Close())
}
