package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/volume"
)

const touchPage = 1 << 20 // bytes of a page of the map

// touched is a volume of a given depth whose first touches are timed.
type touched struct {
	dir   string
	s     *volume.Store
	d     *volume.Device
	first []time.Duration // first reads of pages
	again []time.Duration // second reads of the same pages
}

func (v *touched) reopen(b *testing.B) {
	b.Helper()
	v.close(b)
	var err error
	v.s, err = volume.Open(volume.Options{Dir: v.dir})
	ok(b, err)
	v.d, err = v.s.Open(context.Background(), "deep", "bench", nil)
	ok(b, err)
}

func (v *touched) close(b *testing.B) {
	if v.s != nil {
		ok(b, v.d.Close())
		ok(b, v.s.Close())
	}
}

// BenchmarkTouch compares the first and the second read of pages at depth 1, 1
// again (the noise) and 1,000, by turns, after the store was opened anew.
func BenchmarkTouch(b *testing.B) {
	depths := []int{1, 1, 1000}
	vs := make([]*touched, len(depths))
	for i, depth := range depths {
		v := &touched{dir: b.TempDir()}
		s, err := volume.Open(volume.Options{Dir: v.dir})
		ok(b, err)
		b.Run(fmt.Sprintf("make/%d/depth=%d", i, depth), func(b *testing.B) { deep(b, s, depth) })
		ok(b, s.Close())
		vs[i] = v
	}
	defer func() {
		for _, v := range vs {
			v.close(b)
		}
	}()
	buf := make([]byte, block.Size)
	read := func(v *touched, page int) time.Duration {
		start := time.Now()
		ok(b, v.d.ReadAt(context.Background(), buf, uint64(page)*touchPage+128*block.Size))
		return time.Since(start)
	}
	for round := range 12 {
		for _, v := range vs {
			v.reopen(b)
		}
		for _, page := range rand.New(rand.NewPCG(uint64(round), 5)).Perm(gib / touchPage) {
			for _, v := range vs {
				v.first = append(v.first, read(v, page))
				v.again = append(v.again, read(v, page))
			}
		}
	}
	median := func(ds []time.Duration) float64 {
		ds = slices.Clone(ds)
		slices.Sort(ds)
		return float64(ds[len(ds)/2])
	}
	for i, v := range vs {
		b.Logf("depth %4d: very first read after opening %7.0f ns, first touch %6.0f ns (%.2fx), second read %5.0f ns (%.2fx)", depths[i],
			median(v.openings()), median(v.first), median(v.first)/median(vs[0].first), median(v.again), median(v.again)/median(vs[0].again))
	}
}

// openings are the first reads of all after each opening.
func (v *touched) openings() (ds []time.Duration) {
	for i := 0; i < len(v.first); i += gib / touchPage {
		ds = append(ds, v.first[i])
	}
	return ds
}
