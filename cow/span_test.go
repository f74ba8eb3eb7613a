package cow

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/slackerd/slacker/block"
)

// forest is a tree under random changes with what each layer sees.
type forest struct {
	*testTree
	r      *rand.Rand
	nextID block.LayerID
	layers []*Layer
	seen   map[*Layer]map[block.Index]Entry
}

func (f *forest) grow(parent *Layer) *Layer {
	f.nextID++
	l := f.add(f.nextID, parent)
	f.layers = append(f.layers, l)
	f.seen[l] = maps.Clone(f.seen[parent])
	if f.seen[l] == nil {
		f.seen[l] = map[block.Index]Entry{}
	}
	return l
}

// change writes to a layer without children.
func (f *forest) change(l *Layer) {
	if len(l.kids) > 0 {
		return
	}
	count := 1 + f.r.IntN(40)
	f.write(l, block.Index(f.r.IntN(testPages*PageBlocks-count)), uint32(count), f.r.IntN(4) == 0)
	maps.Copy(f.seen[l], f.own[l])
}

// tidy does the upkeep of everything that is not named.
func (f *forest) tidy() {
	ctx := context.Background()
	for {
		doomed, redundant, forks := f.tree.Doomed(), f.tree.Redundant(), f.tree.Forks()
		var err error
		switch {
		case len(doomed) > 0:
			_, err = f.tree.Remove(ctx, doomed[0], noSteps)
			f.forget(doomed[0])
		case len(redundant) > 0:
			err = f.tree.Merge(ctx, redundant[f.r.IntN(len(redundant))], noSteps)
		default:
			for _, l := range forks {
				if _, err := f.tree.Sweep(ctx, l, noSteps); err != nil {
					f.t.Fatal(err)
				}
			}
			f.forget(nil)
			return
		}
		if err != nil {
			f.t.Fatal(err)
		}
	}
}

// forget drops the layer, and those that were merged, from the list.
func (f *forest) forget(gone *Layer) {
	kept := f.layers[:0]
	for _, l := range f.layers {
		if l != gone && f.tree.Layer(l.ID) == l {
			kept = append(kept, l)
		}
	}
	f.layers = kept
}

// cold empties the cache.
func (f *forest) cold() {
	for _, l := range f.layers {
		f.tree.cache.drop(l.ID, 0, ^uint32(0))
	}
}

func (f *forest) look(l *Layer) {
	f.t.Helper()
	var got [testPages * PageBlocks]Entry
	if err := f.tree.Lookup(l, 0, got[:]); err != nil {
		f.t.Fatal(err)
	}
	for i, e := range got {
		if w := f.seen[l][block.Index(i)]; e.IsData() != w.IsData() || e.IsData() && e != w {
			f.t.Fatalf("layer %d block %d is at %v, want %v", l.ID, i, e.Addr, w.Addr)
		}
	}
}

// checkSpans holds the spans to invariant M7 and to their account.
func (x *testTree) checkSpans() {
	x.t.Helper()
	b := &x.tree.book
	indexes, bytes, layers := map[*spanIndex]int{}, int64(0), 0
	for slot, s := range b.spans {
		indexes[s.index]++
		bytes += spanBytes + int64(len(s.layers))*spanLayerBytes
		layers += len(s.layers)
		if s.slot != slot || len(s.layers) == 0 {
			x.t.Fatalf("span in slot %d says %d and has %d layers", slot, s.slot, len(s.layers))
		}
		for i, l := range s.layers {
			if l.span != s || l.spanAt != s.base+uint32(i) || x.tree.layers[l.ID] != l {
				x.t.Fatalf("layer %d is not at %d of its span", l.ID, i)
			}
			if i > 0 && s.layers[i-1].parent != l {
				x.t.Fatalf("layer %d follows on layer %d in a span and is not its parent", l.ID, s.layers[i-1].ID)
			}
			pages, err := x.tree.ownPages(context.Background(), l.mapID)
			if err != nil {
				x.t.Fatal(err)
			}
			for _, n := range pages {
				if at, _, ok := s.index.find(n, l.spanAt); !ok || at != l.spanAt {
					x.t.Fatalf("page %d of layer %d is not in its span", n, l.ID)
				}
			}
		}
	}
	for i, n := range indexes {
		bytes += i.bytes()
		if i.spans != n {
			x.t.Fatalf("an index counts %d spans, want %d", i.spans, n)
		}
	}
	for _, l := range x.tree.layers {
		if l.span != nil {
			layers--
		}
	}
	if bytes != b.bytes || layers != 0 || b.bytes > b.limit {
		x.t.Fatalf("the spans take %d bytes, their account says %d, the limit is %d; %d layers too many", bytes, b.bytes, b.limit, layers)
	}
}

// TestSpans: whatever layers are added, written, merged, swept and removed
// around them, walks along spans see what brute force sees (M7).
func TestSpans(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			f := &forest{testTree: newTestTree(t), r: rand.New(rand.NewPCG(seed, 9)), seen: map[*Layer]map[block.Index]Entry{}}
			f.tree.book.busy.Store(true) // this test learns itself
			f.tree.book.limit = 64 << 10
			if seed%3 == 0 {
				f.tree.book.limit = 1200 // so that spans are evicted
			}
			f.grow(nil)
			for range 400 {
				l := f.layers[f.r.IntN(len(f.layers))]
				switch f.r.IntN(10) {
				case 0, 1, 2:
					f.grow(f.layers[max(0, len(f.layers)-1-f.r.IntN(3))])
				case 3:
					if l.names > 0 {
						f.grow(l)
					}
				case 4, 5:
					f.change(f.layers[max(0, len(f.layers)-1-f.r.IntN(5))])
				case 6, 7:
					if l.parent != nil {
						if err := f.tree.learn(context.Background(), l.parent); err != nil {
							t.Fatal(err)
						}
					}
				case 8:
					if l.names > 0 && len(f.layers) > 8 {
						f.tree.Name(l, -1)
						f.tidy()
					}
				default:
					f.cold()
					for _, l := range f.layers {
						if l.names > 0 {
							f.look(l)
						}
					}
				}
				f.checkSpans()
			}
			f.counts()
		})
	}
}

// TestSpansOfChain: of a chain of 1,000 layers a first touch asks the layers
// that hold the page and no others, and a chain that grows has few spans.
func TestSpansOfChain(t *testing.T) {
	x := newTestTree(t)
	x.tree.book.busy.Store(true)
	var l *Layer
	for id := block.LayerID(1); id <= 1000; id++ {
		l = x.add(id, l)
		x.write(l, block.Index(id)*PageBlocks, 1, false)
		if id%10 == 0 {
			if err := x.tree.learn(context.Background(), l.parent); err != nil {
				t.Fatal(err)
			}
			x.checkSpans()
		}
	}
	spans, last := 0, (*span)(nil)
	for a := l.parent; a != nil; a = a.parent {
		if a.span == nil {
			t.Fatalf("layer %d is in no span", a.ID)
		}
		if a.span != last {
			spans, last = spans+1, a.span
		}
	}
	if spans > 10 {
		t.Errorf("a chain of 1000 layers that grew has %d spans, want at most 10", spans)
	}
	before := x.tree.db.gets.Load()
	for page := uint32(1); page < 1000; page++ {
		var e [1]Entry
		if err := x.tree.Lookup(l, block.Index(page)*PageBlocks, e[:]); err != nil || !e[0].IsData() {
			t.Fatalf("page %d: %v %v", page, e[0], err)
		}
	}
	// One for the page where it is, one for the head, which is asked always.
	if n := x.tree.db.gets.Load() - before; n > 2*999 {
		t.Errorf("first touches of 999 pages asked the store %d times, want at most %d", n, 2*999)
	}
}
