package cow

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testPages = 3

// testTree is a tree of layers with what each of them has to show.
type testTree struct {
	t    testing.TB
	tree *Tree
	lsn  uint64
	next uint32 // block of segment 1
	own  map[*Layer]map[block.Index]Entry
}

func newTestTree(t testing.TB) *testTree {
	t.Helper()
	db, err := Open(Options{FS: vfs.NewMem(), Dir: "map", CacheBytes: 1 << 20, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	c, err := db.LoadCatalog(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	tree, err := NewTree(db, c, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tree.Close)
	return &testTree{t: t, tree: tree, next: 1, own: map[*Layer]map[block.Index]Entry{}}
}

func (x *testTree) add(id block.LayerID, parent *Layer) *Layer {
	x.t.Helper()
	l := x.tree.Add(id, parent)
	tx := x.tree.db.Begin()
	tx.PutLayer(x.tree.Record(l))
	if err := tx.Commit(false); err != nil {
		x.t.Fatal(err)
	}
	x.own[l] = map[block.Index]Entry{}
	return l
}

// write makes a run of data, or of zeroes, and commits it.
func (x *testTree) write(l *Layer, first block.Index, count uint32, zero bool) {
	x.t.Helper()
	x.lsn++
	c := &Change{LSN: x.lsn, Layer: l, Run: Run{First: first, Count: count}}
	if !zero {
		c.Run.Addr, c.Run.Sums = block.MakeAddr(1, x.next), make([]uint32, count)
		x.next += count
	}
	for i := range count {
		if !zero {
			c.Run.Sums[i] = uint32(x.lsn)
		}
		x.own[l][first+block.Index(i)] = c.entry(i)
	}
	p, err := x.tree.Pin(l, first, uint64(count))
	if err != nil {
		x.t.Fatal(err)
	}
	p.Apply(c, false)
	p.Release()
	tx := x.tree.db.Begin()
	tx.ApplyAll(x.tree, []*Change{c})
	if err := tx.Commit(false); err != nil {
		x.t.Fatal(err)
	}
	x.tree.Committed(x.lsn)
}

func (x *testTree) random(r *rand.Rand, l *Layer, n int) {
	x.t.Helper()
	for range n {
		count := 1 + r.IntN(60)
		x.write(l, block.Index(r.IntN(testPages*PageBlocks-count)), uint32(count), r.IntN(4) == 0)
	}
}

// sees resolves every block of a layer by brute force. chain is the layer and
// its ancestors as they were made.
func (x *testTree) sees(chain []*Layer) map[block.Index]Entry {
	all := map[block.Index]Entry{}
	for _, l := range chain { // nearest first
		for i, e := range x.own[l] {
			if _, has := all[i]; !has {
				all[i] = e
			}
		}
	}
	return all
}

func (x *testTree) compare(what string, chain []*Layer) {
	x.t.Helper()
	want := x.sees(chain)
	var got [testPages * PageBlocks]Entry
	if err := x.tree.Lookup(chain[0], 0, got[:]); err != nil {
		x.t.Fatal(err)
	}
	for i, e := range got {
		if w := want[block.Index(i)]; e.IsData() != w.IsData() || e.IsData() && e != w {
			x.t.Fatalf("%s: layer %d block %d is at %v, want %v", what, chain[0].ID, i, e.Addr, w.Addr)
		}
	}
}

var noSteps = Steps{Flush: func(context.Context) error { return nil }}

// counts wants the counters to be what counting gives (M3).
func (x *testTree) counts() {
	x.t.Helper()
	if err := x.tree.CheckCounts(context.Background()); err != nil {
		x.t.Fatal(err)
	}
}

func TestDeepChain(t *testing.T) {
	x := newTestTree(t)
	r := rand.New(rand.NewPCG(1, 1))
	var chain []*Layer
	var l *Layer
	for id := block.LayerID(1); id <= 1000; id++ {
		l = x.add(id, l)
		chain = append([]*Layer{l}, chain...)
		if id%10 == 1 {
			x.random(r, l, 1)
		}
	}
	x.compare("head of 1000 layers", chain)
	x.compare("in the middle", chain[500:])
	x.write(l, 7, 3, false)
	x.compare("after a write", chain)
	x.counts()
}

// TestMerge merges the middle of three layers, with a larger and with a smaller
// child: every layer sees what it saw (M4).
func TestMerge(t *testing.T) {
	for name, writes := range map[string][2]int{"up": {2, 12}, "down": {12, 2}} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(8) {
				x := newTestTree(t)
				r := rand.New(rand.NewPCG(seed, 2))
				base := x.add(1, nil)
				x.random(r, base, 5)
				w := x.add(2, base)
				x.random(r, w, writes[0])
				u := x.add(3, w)
				x.random(r, u, writes[1])
				left, right := x.add(4, u), x.add(5, u)
				x.random(r, left, 3)
				x.compare("before", []*Layer{left, u, w, base})
				x.tree.Name(w, -1)
				if err := x.tree.Merge(context.Background(), w, noSteps); err != nil {
					t.Fatal(err)
				}
				for _, head := range []*Layer{left, right, u} {
					chain := []*Layer{u, w, base}
					if head != u {
						chain = append([]*Layer{head}, chain...)
					}
					x.compare("merged", chain)
				}
				if x.tree.Layer(2) != u || x.tree.Parent(u) != base {
					t.Error("the merged layer is not forwarded, or the child not on the parent")
				}
				x.counts()
			}
		})
	}
}

// TestSweep: what all children of an unnamed layer hide goes, what one of them
// sees stays.
func TestSweep(t *testing.T) {
	x := newTestTree(t)
	base := x.add(1, nil)
	x.write(base, 0, 100, false)
	left, right := x.add(2, base), x.add(3, base)
	x.write(left, 0, 60, false)
	x.write(right, 40, 60, true)
	x.tree.Name(base, -1)
	freed, err := x.tree.Sweep(context.Background(), base, noSteps)
	if err != nil || freed != 20 {
		t.Errorf("freed %d blocks, want the 20 that both hide: %v", freed, err)
	}
	x.compare("left", []*Layer{left, base})
	x.compare("right", []*Layer{right, base})
	x.counts()
	if freed, err := x.tree.Sweep(context.Background(), base, noSteps); err != nil || freed != 0 {
		t.Errorf("a second time: freed %d, %v", freed, err)
	}
}

// TestUsage compares with counting every block of every layer.
func TestUsage(t *testing.T) {
	for seed := range uint64(6) {
		x := newTestTree(t)
		r := rand.New(rand.NewPCG(seed, 3))
		var layers []*Layer
		chains := map[*Layer][]*Layer{}
		for id := block.LayerID(1); id <= 9; id++ {
			var parent *Layer
			if id > 1 && r.IntN(6) > 0 {
				parent = layers[r.IntN(len(layers))]
			}
			l := x.add(id, parent)
			chains[l] = append([]*Layer{l}, chains[parent]...)
			layers = append(layers, l)
			x.random(r, l, 3)
			switch r.IntN(6) {
			case 0, 1:
				x.tree.Name(l, -1)
			case 2:
				x.tree.Name(l, 1)
			}
		}
		seen := func(ls []*Layer) map[block.Addr]bool {
			all := map[block.Addr]bool{}
			for _, l := range ls {
				for _, e := range x.sees(chains[l]) {
					if e.IsData() {
						all[e.Addr] = true
					}
				}
			}
			return all
		}
		for n := range 4 {
			var set, others []*Layer
			for i, l := range layers {
				if l.names == 0 {
					continue
				}
				if (i+n)%3 == 0 {
					set = append(set, l)
				}
				if (i+n)%3 != 0 || l.names > 1 {
					others = append(others, l)
				}
			}
			mine, theirs := seen(set), seen(others)
			want := Usage{Logical: uint64(len(mine))}
			for a := range mine {
				if !theirs[a] {
					want.Exclusive++
				}
			}
			if got, err := x.tree.Usage(context.Background(), set); err != nil || got != want {
				t.Errorf("seed %d, set %d: got %+v, want %+v: %v", seed, n, got, want, err)
			}
		}
	}
}
