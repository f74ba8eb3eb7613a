package cow

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/slackerd/slacker/block"
)

// TestNextPage: of random forests, learned or not, committed or not, no page that
// somebody holds something of is skipped; and of pages that nobody does, all are.
func TestNextPage(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			const pages = 200
			x := newTestTree(t)
			x.tree.book.busy.Store(true)
			r := rand.New(rand.NewPCG(seed, 33))
			held := map[*Layer]map[uint32]bool{}
			var layers []*Layer
			var waiting []*Change
			for id := block.LayerID(1); id <= 40; id++ {
				var parent *Layer
				if len(layers) > 0 {
					parent = layers[max(0, len(layers)-1-r.IntN(3))]
				}
				l := x.add(id, parent)
				layers = append(layers, l)
				held[l] = maps.Clone(held[parent])
				if held[l] == nil {
					held[l] = map[uint32]bool{}
				}
				for range r.IntN(4) {
					page := uint32(r.IntN(pages))
					waiting = append(waiting, x.apply(l, block.Index(page)*PageBlocks+7))
					held[l][page] = true
				}
				if r.IntN(2) == 0 {
					for _, c := range waiting {
						x.commit(c)
					}
					waiting = nil
				}
				if r.IntN(3) == 0 && l.parent != nil {
					if err := x.tree.learn(context.Background(), l.parent); err != nil {
						t.Fatal(err)
					}
				}
				if id%8 != 0 {
					continue
				}
				for _, l := range layers {
					x.walkPages(l, pages, held[l])
				}
			}
		})
	}
}

// apply changes a block without committing it.
func (x *testTree) apply(l *Layer, i block.Index) *Change {
	x.t.Helper()
	x.lsn++
	c := &Change{LSN: x.lsn, Layer: l, Run: Run{First: i, Count: 1, Addr: block.MakeAddr(1, x.next), Sums: []uint32{uint32(x.lsn)}}}
	x.next++
	pin, err := x.tree.Pin(l, i, 1)
	if err != nil {
		x.t.Fatal(err)
	}
	defer pin.Release()
	pin.Apply(c, false)
	return c
}

// walkPages goes through the pages of a layer by NextPage.
func (x *testTree) walkPages(l *Layer, pages uint32, held map[uint32]bool) {
	x.t.Helper()
	for at := uint32(0); at < pages; at++ {
		next, err := x.tree.NextPage(context.Background(), l, at, pages)
		if err != nil {
			x.t.Fatal(err)
		}
		for ; at < next; at++ {
			if held[at] {
				x.t.Fatalf("layer %d: page %d is skipped, and held", l.ID, at)
			}
		}
		if next < pages && !held[next] {
			x.t.Fatalf("layer %d: page %d is not skipped, and nobody holds it", l.ID, next)
		}
	}
}
