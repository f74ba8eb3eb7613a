package cow

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/slackerd/slacker/block"
)

// flatForest is a forest whose blocks are moved, as the cleaner does.
type flatForest struct {
	*forest
	gone map[block.Addr]bool // moved away from
}

func newFlatForest(t testing.TB, seed uint64) *flatForest {
	f := &flatForest{&forest{testTree: newTestTree(t), r: rand.New(rand.NewPCG(seed, 21)), seen: map[*Layer]map[block.Index]Entry{}}, map[block.Addr]bool{}}
	f.tree.book.busy.Store(true) // nothing is learned but by the test
	return f
}

// relocate moves some block of a layer, under the entries that all layers see.
func (f *flatForest) relocate(l *Layer) {
	f.t.Helper()
	for i, old := range f.seen[l] {
		pin, err := f.tree.Pin(l, i, 1)
		if err != nil {
			f.t.Fatal(err)
		}
		e, own := pin.Entry(i)
		if stored, _, err := f.tree.Own(l.ID, i); err != nil || stored.IsData() != (own && e.IsData()) || stored.IsData() && stored != e {
			f.t.Fatalf("layer %d block %d: the map has %v (%v), the page in memory %v, own %v", l.ID, i, stored, err, e, own)
		}
		if own && e.IsData() && !f.gone[e.Addr] {
			f.lsn++
			to := Entry{block.MakeAddr(1, f.next), old.Sum}
			f.next++
			c := &Change{LSN: f.lsn, Layer: l, Run: Run{First: i, Count: 1, Addr: to.Addr, Sums: []uint32{to.Sum}}}
			pin.Apply(c, true)
			f.commit(c)
			f.gone[e.Addr] = true
			for _, es := range []map[*Layer]map[block.Index]Entry{f.seen, f.own} {
				for _, at := range es {
					if at[i] == e {
						at[i] = to
					}
				}
			}
			pin.Release()
			return
		}
		pin.Release()
	}
}

// commit commits a change that was applied.
func (x *testTree) commit(c *Change) {
	x.t.Helper()
	tx := x.tree.db.Begin()
	tx.ApplyAll(x.tree, []*Change{c})
	if err := tx.Commit(false); err != nil {
		x.t.Fatal(err)
	}
	x.tree.Committed(c.LSN)
}

// read looks at every block as volume's readers do: what is found at a place
// that was left is forgotten and asked for again.
func (f *flatForest) read(l *Layer) {
	f.t.Helper()
	var got [testPages * PageBlocks]Entry
	if err := f.tree.Lookup(l, 0, got[:]); err != nil {
		f.t.Fatal(err)
	}
	for k, e := range got {
		i := block.Index(k)
		for tries := 0; e.IsData() && f.gone[e.Addr]; tries++ {
			var fresh [1]Entry
			if err := f.tree.Forget(l, i, e); err != nil {
				f.t.Fatal(err)
			}
			if err := f.tree.Lookup(l, i, fresh[:]); err != nil {
				f.t.Fatal(err)
			}
			if fresh[0] == e || tries > 3 {
				f.t.Fatalf("layer %d block %d stays at %v, which was left", l.ID, i, e.Addr)
			}
			e = fresh[0]
		}
		if w := f.seen[l][i]; e.IsData() != w.IsData() || e.IsData() && e != w {
			f.t.Fatalf("layer %d block %d is at %v, want %v", l.ID, i, e.Addr, w.Addr)
		}
	}
}

// audit begins an audit in which each layer that has a name is the head of a
// volume.
func (x *testTree) audit() *Audit {
	x.t.Helper()
	a, err := x.tree.Audit(context.Background())
	if err != nil {
		x.t.Fatal(err)
	}
	for _, l := range x.tree.Layers() {
		if l.names > 0 {
			a.catalog.Volumes = append(a.catalog.Volumes, VolumeRecord{Head: l.ID})
		}
	}
	return a
}

// flats returns how many flat pages there are, after having them checked.
func (x *testTree) flats() (n int) {
	x.t.Helper()
	ctx := context.Background()
	a := x.audit()
	defer func() { _ = a.Close() }()
	n, err := a.CheckFlats(ctx, func(l block.LayerID, page uint32, what string) {
		x.t.Errorf("flat page %d of layer %d: %s", page, l, what)
	})
	if err != nil {
		x.t.Fatal(err)
	}
	return n
}

// TestFlatPages: whatever layers are added, written, moved, merged, swept and
// removed, flat pages say what the maps say, go with their layers, and readers
// find everything in its place (M9).
func TestFlatPages(t *testing.T) {
	total, seeds := 0, uint64(8)
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			f := newFlatForest(t, seed)
			f.grow(nil)
			for range 300 {
				f.step()
			}
			total += f.flats()
			f.counts()
		})
	}
	if total == 0 {
		t.Error("no page was ever stored flat")
	}
}

func (f *flatForest) step() {
	l := f.layers[f.r.IntN(len(f.layers))]
	switch f.r.IntN(10) {
	case 0, 1, 2:
		f.grow(f.layers[len(f.layers)-1])
		f.change(f.layers[len(f.layers)-1])
	case 3:
		if l.names > 0 {
			f.grow(l)
		}
	case 4:
		f.change(l)
	case 5:
		f.relocate(l)
	case 6:
		if l.parent != nil {
			if err := f.tree.learn(context.Background(), l.parent); err != nil {
				f.t.Fatal(err)
			}
		}
	case 7:
		if l.names > 0 && len(f.layers) > 12 {
			f.tree.Name(l, -1)
			f.tidy()
		}
	default:
		f.cold()
		for _, l := range f.layers {
			if l.names > 0 {
				f.read(l)
			}
		}
	}
}

// deepPage is a chain of n layers that each have one block of page 0.
func deepPage(t *testing.T, n int) (x *testTree, chain []*Layer) {
	x = newTestTree(t)
	x.tree.book.busy.Store(true)
	var l *Layer
	for id := 1; id <= n; id++ {
		l = x.add(block.LayerID(id), l)
		x.write(l, block.Index(id%(PageBlocks-4)), 1, false)
		chain = append([]*Layer{l}, chain...)
	}
	return x, chain
}

func (x *testTree) cold(chain []*Layer) {
	for _, l := range chain {
		x.tree.cache.drop(l.ID, 0, ^uint32(0))
	}
}

// TestFirstTouchOfDeepPage: a page that 100 layers hold is asked for in all of
// them once; after that a cold read asks the head, the flat page and little else.
func TestFirstTouchOfDeepPage(t *testing.T) {
	x, chain := deepPage(t, 100)
	learn := func() {
		if err := x.tree.learn(context.Background(), chain[1]); err != nil {
			t.Fatal(err)
		}
	}
	learn()
	for round := range 3 {
		if round == 2 { // layers above the flat page
			for id := range block.LayerID(2) {
				l := x.add(101+id, chain[0])
				chain = append([]*Layer{l}, chain...)
				x.write(l, PageBlocks-1-block.Index(id), 1, false)
			}
			learn()
		}
		x.cold(chain)
		before := x.tree.db.gets.Load()
		x.compare(fmt.Sprintf("round %d", round), chain)
		asked := x.tree.db.gets.Load() - before
		x.tree.book.done.Wait()
		// Three pages are looked at, two of which nobody holds. Of the first: the
		// head, and the sealed layers above the highest flat page, and that.
		if most := uint64(2 + 2 + flattenAfter + 1); round > 0 && asked > most {
			t.Errorf("round %d: the store was asked %d times, want at most %d", round, asked, most)
		}
	}
	if n := x.flats(); n == 0 || n > 102/flattenAfter {
		t.Errorf("%d flat pages of 102 layers, want at least 1 and at most one for each %d", n, flattenAfter)
	}
}

// TestNoFlatPageBeforeCommit: what is not committed yet gets into no flat page,
// since a crash may take it back.
func TestNoFlatPageBeforeCommit(t *testing.T) {
	x, chain := deepPage(t, 10)
	stored := x.flats()
	x.lsn++
	const last = PageBlocks - 1
	c := &Change{LSN: x.lsn, Layer: chain[0], Run: Run{First: last, Count: 1, Addr: block.MakeAddr(1, x.next), Sums: []uint32{7}}}
	pin, err := x.tree.Pin(chain[0], last, 1)
	if err != nil {
		t.Fatal(err)
	}
	pin.Apply(c, false)
	pin.Release()
	x.own[chain[0]][last] = c.entry(0)
	child := x.add(11, chain[0])
	grandchild := x.add(12, child)
	x.cold(chain[1:])
	x.compare("before the commit, over what is in memory", append([]*Layer{child}, chain...))
	x.cold([]*Layer{child})
	x.compare("before the commit, by a walk", append([]*Layer{grandchild, child}, chain...))
	x.tree.book.done.Wait()
	if v, err := x.tree.db.get(flatKey(chain[0].ID, 0)); err != nil || v != nil {
		t.Fatalf("layer %d has a flat page with what is not committed (%v)", chain[0].ID, err)
	}
	x.commit(c)
	x.cold(append([]*Layer{child}, chain...))
	x.compare("after the commit", append([]*Layer{child}, chain...))
	x.tree.book.done.Wait()
	if n := x.flats(); n <= stored {
		t.Errorf("%d flat pages after the commit, %d before", n, stored)
	}
}

// TestFlatPagesGo: with its layer a flat page goes.
func TestFlatPagesGo(t *testing.T) {
	x, chain := deepPage(t, 12)
	x.cold(chain)
	x.compare("at first", chain)
	x.tree.book.done.Wait()
	if x.flats() == 0 {
		t.Fatal("no flat page was stored")
	}
	for _, l := range chain {
		x.tree.Name(l, -1)
	}
	for _, l := range chain {
		if _, err := x.tree.Remove(context.Background(), l, noSteps); err != nil {
			t.Fatal(err)
		}
		x.flats()
	}
	if n := x.flats(); n != 0 {
		t.Errorf("%d flat pages are left of no layer", n)
	}
}

// TestDamagedFlatPage: a flat page that does not verify counts for nothing, and
// the check names it, as it does one that says something else.
func TestDamagedFlatPage(t *testing.T) {
	x, chain := deepPage(t, 20)
	x.cold(chain)
	x.compare("at first", chain)
	x.tree.book.done.Wait()
	key, value := x.someFlat()
	l, page, _ := parseFlatKey(key)
	other := flatKey(l, page+1)
	var lie = *pageOf(t, key, value)
	lie.sum[1]++ // block 1 is in every layer's page
	flipped := append([]byte(nil), value...)
	flipped[4] ^= 1
	for what, plant := range map[string]struct{ key, value []byte }{
		"flipped":   {key, flipped},
		"cut":       {key, value[:3]},
		"misplaced": {other, value},
		"stray":     {flatKey(9999, 0), value},
		"a lie":     {key, lie.encode(key, func(int) bool { return true })},
	} {
		x.set(plant.key, plant.value)
		if named := x.namedFlats(); named != 1 {
			t.Errorf("%s: %d flat pages are named, want 1", what, named)
		}
		if what != "a lie" { // against that there is the block's checksum
			x.cold(chain)
			x.compare(what, chain)
			x.tree.book.done.Wait()
		}
		x.set(key, value)
		x.set(other, nil)
		x.set(flatKey(9999, 0), nil)
	}
}

func (x *testTree) set(key, value []byte) {
	x.t.Helper()
	tx := x.tree.db.Begin()
	if value == nil {
		tx.note(tx.b.Delete(key, nil))
	} else {
		tx.note(tx.b.Set(key, value, nil))
	}
	if err := tx.Commit(false); err != nil {
		x.t.Fatal(err)
	}
}

// someFlat returns the last flat page.
func (x *testTree) someFlat() (key, value []byte) {
	x.t.Helper()
	err := x.tree.db.scan(context.Background(), []byte{keyFlat}, func(k, v []byte) error {
		key, value = append([]byte(nil), k...), append([]byte(nil), v...)
		return nil
	})
	if err != nil || key == nil {
		x.t.Fatal("no flat page was stored", err)
	}
	return key, value
}

func (x *testTree) namedFlats() (n int) {
	x.t.Helper()
	a := x.audit()
	defer func() { _ = a.Close() }()
	if _, err := a.CheckFlats(context.Background(), func(block.LayerID, uint32, string) { n++ }); err != nil {
		x.t.Fatal(err)
	}
	return n
}

func pageOf(t *testing.T, key, value []byte) *page {
	t.Helper()
	var p page
	if err := overlayPage(&p, key, value); err != nil {
		t.Fatal(err)
	}
	return &p
}
