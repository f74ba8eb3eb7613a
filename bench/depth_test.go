package bench

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/volume"
)

var depthOpenings = flag.Int("depth.openings", 6, "openings of each volume of BenchmarkDepth")

// depthCase is a volume full of data on a chain of layers.
type depthCase struct {
	touched
	depth  int
	spread int             // blocks that each layer has at random places
	steady []time.Duration // of steadyReads random reads
	slow   []time.Duration // from the first read of an opening to the end of its last slow one
	slows  int
}

const steadyReads = 500

func (c *depthCase) fill(b *testing.B) {
	b.Helper()
	ctx := context.Background()
	c.dir = b.TempDir()
	s, err := volume.Open(volume.Options{Dir: c.dir})
	ok(b, err)
	_, err = s.Create(ctx, "deep", gib)
	ok(b, err)
	d, err := s.Open(ctx, "deep", "bench", nil)
	ok(b, err)
	buf := make([]byte, touchPage)
	r := rand.New(rand.NewPCG(1, 2))
	for off := uint64(0); off < gib; off += touchPage {
		for i := 0; i < len(buf); i += 8 {
			buf[i] = byte(r.Uint32()) | 1
		}
		ok(b, d.WriteAt(ctx, buf, off, false))
	}
	for i := range c.depth {
		_, err := s.Snapshot(ctx, "deep", fmt.Sprintf("s%d", i))
		ok(b, err)
		for range c.spread {
			ok(b, d.WriteAt(ctx, buf[:block.Size], uint64(r.IntN(gib/block.Size))*block.Size, false))
		}
	}
	ok(b, d.Close())
	ok(b, s.Close())
}

func (c *depthCase) read(b *testing.B, buf []byte, off uint64) time.Duration {
	start := time.Now()
	ok(b, c.d.ReadAt(context.Background(), buf, off))
	return time.Since(start)
}

// touchAll reads a block of each page for the first time.
func (c *depthCase) touchAll(b *testing.B, seed uint64) {
	buf := make([]byte, block.Size)
	start, until := time.Now(), time.Duration(0)
	for _, page := range rand.New(rand.NewPCG(seed, 5)).Perm(gib / touchPage) {
		took := c.read(b, buf, uint64(page)*touchPage+128*block.Size)
		if c.first = append(c.first, took); took > 300*time.Microsecond {
			c.slows++
			until = time.Since(start)
		}
	}
	c.slow = append(c.slow, until)
}

func (c *depthCase) readSteady(b *testing.B, seed uint64) {
	buf := make([]byte, block.Size)
	r := rand.New(rand.NewPCG(seed, 6))
	start := time.Now()
	for range steadyReads {
		ok(b, c.d.ReadAt(context.Background(), buf, uint64(r.IntN(gib/block.Size))*block.Size))
	}
	c.steady = append(c.steady, time.Since(start)/steadyReads)
}

// BenchmarkDepth reads volumes full of data, of depth 1, 1 again (the noise) and
// 1,000 with layers of 1 and of 20 blocks, by turns: each page for the first
// time after an opening, then at random.
func BenchmarkDepth(b *testing.B) {
	cs := []*depthCase{{depth: 1, spread: 1}, {depth: 1, spread: 1}, {depth: 1000, spread: 1}, {depth: 1000, spread: 20}}
	for _, c := range cs {
		c.fill(b)
	}
	defer func() {
		for _, c := range cs {
			c.close(b)
		}
	}()
	for round := range *depthOpenings {
		for _, c := range cs {
			c.reopen(b)
			c.touchAll(b, uint64(round))
		}
		for turn := range 100 {
			for i := range cs {
				cs[(i+turn)%len(cs)].readSteady(b, uint64(100*round+turn))
			}
		}
	}
	at := func(ds []time.Duration, part float64) float64 {
		ds = slices.Clone(ds)
		slices.Sort(ds)
		return float64(ds[int(part*float64(len(ds)))])
	}
	median := func(ds []time.Duration) float64 { return at(ds, 0.5) }
	// The quickest turns are those that nothing else on the machine disturbed.
	quick := func(ds []time.Duration) float64 { return at(ds, 0.1) }
	for _, c := range cs {
		b.Logf("depth %4d, %2d blocks a layer: steady 4k random read %5.0f ns (%.3fx), first touch %6.0f ns (%.2fx); %.1f reads an opening above 300 us, the last ended %v after the first began",
			c.depth, c.spread, quick(c.steady), quick(c.steady)/quick(cs[0].steady), median(c.first), median(c.first)/median(cs[0].first),
			float64(c.slows)/float64(*depthOpenings), time.Duration(median(c.slow)).Round(time.Microsecond))
	}
}
