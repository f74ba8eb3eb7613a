package cow

import (
	"context"
	"math"
	"sort"

	"github.com/slackerd/slacker/block"
)

// The upkeep of layers: those that nobody can see are removed, those that only
// one child needs are merged with it, and in those that several children need,
// what all of them hide is dropped. All of it works page by page, each page in
// one atomic commit after which every layer reads as before, so it may stop or
// crash anywhere and be taken up again. One goroutine at a time does it.

// Steps are what the upkeep calls on its way.
type Steps struct {
	// Flush commits every change made so far.
	Flush func(context.Context) error
	// Pace, when set, is called between two steps, with nothing locked. It may
	// wait, so that clients come first.
	Pace func(context.Context) error
}

func (s Steps) pace(ctx context.Context) error {
	if s.Pace != nil {
		return s.Pace(ctx)
	}
	return ctx.Err()
}

// unnamedLayers returns the unnamed layers whose number of children is wanted,
// the newest first. It does not look at the others: a hundred thousand volumes
// must not make the deletion of one cost more.
func (t *Tree) unnamedLayers(want func(kids int) bool) []*Layer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var ls []*Layer
	for l := range t.unnamed {
		if want(len(l.kids)) {
			ls = append(ls, l)
		}
	}
	sort.Slice(ls, func(i, j int) bool { return ls[i].ID > ls[j].ID })
	return ls
}

// Doomed returns the layers that nobody can see: unnamed and without children.
func (t *Tree) Doomed() []*Layer {
	return t.unnamedLayers(func(n int) bool { return n == 0 })
}

// Redundant returns the unnamed layers with just one child.
func (t *Tree) Redundant() []*Layer {
	return t.unnamedLayers(func(n int) bool { return n == 1 })
}

// Forks returns the unnamed layers with several children.
func (t *Tree) Forks() []*Layer {
	return t.unnamedLayers(func(n int) bool { return n > 1 })
}

// tally gathers what a step does to the counters.
type tally struct {
	live map[block.SegmentID]int64
	data map[MapID]int64
}

func newTally() tally {
	return tally{map[block.SegmentID]int64{}, map[MapID]int64{}}
}

func (t *Tree) adjust(y tally) {
	t.counts.Lock()
	defer t.counts.Unlock()
	for s, n := range y.live {
		t.counts.live[s] += n
	}
	for m, n := range y.data {
		t.counts.data[m] += n
	}
}

// commitTally commits the transaction with the counters, then follows in memory.
func (t *Tree) commitTally(x *Tx, y tally, sync bool) error {
	x.addCounts(y.live, y.data)
	if err := x.Commit(sync); err != nil {
		return err
	}
	t.adjust(y)
	return nil
}

func (t *Tree) mapOf(l *Layer) MapID {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return l.mapID
}

// Merge merges the unnamed layer w with its only child, which keeps its number
// and sees what it saw. The smaller of the two maps moves into the other.
func (t *Tree) Merge(ctx context.Context, w *Layer, steps Steps) error {
	t.mu.RLock()
	if w.names != 0 || len(w.kids) != 1 {
		t.mu.RUnlock()
		return nil
	}
	var u *Layer
	for u = range w.kids {
	}
	t.mu.RUnlock()
	t.unspan(u, w)
	defer t.settle(u, w)
	f := &fold{t: t, w: w, u: u, down: t.DataBlocks(u) <= t.DataBlocks(w), steps: steps}
	source := w
	if f.down {
		source = u
	}
	pages, err := t.ownPages(ctx, t.mapOf(source))
	if err != nil {
		return err
	}
	for _, n := range pages {
		if err := steps.pace(ctx); err != nil {
			return err
		}
		if err := f.page(ctx, n); err != nil {
			return err
		}
	}
	return f.finish(ctx)
}

// ownPages lists the pages of a map.
func (t *Tree) ownPages(ctx context.Context, m MapID) ([]uint32, error) { return t.db.pagesOf(ctx, m) }

func (d *DB) pagesOf(ctx context.Context, m MapID) ([]uint32, error) {
	return d.pagesUpTo(ctx, m, math.MaxInt)
}

// pagesUpTo is pagesOf for a map with at most limit pages; for one with more it
// returns nil.
func (d *DB) pagesUpTo(ctx context.Context, m MapID, limit int) ([]uint32, error) {
	pages := []uint32{}
	tooMany := block.Errorf(block.Internal, "map %d has more than %d pages", m, limit)
	err := d.scan(ctx, idKey(keyPage, uint64(m)), func(k, _ []byte) error {
		_, n, ok := parsePageKey(k)
		if !ok {
			return block.Errorf(block.Corrupt, "extent map: page key of %d bytes", len(k))
		}
		if len(pages) == limit {
			return tooMany
		}
		pages = append(pages, n)
		return nil
	})
	if err == tooMany {
		return nil, nil
	}
	return pages, err
}

// fold is the merge of w with its only child u.
type fold struct {
	t     *Tree
	w, u  *Layer
	down  bool // u's entries move into w's map, which u then takes over
	steps Steps
}

// page moves one page, keeping out changes to it.
func (f *fold) page(ctx context.Context, n uint32) error {
	first := block.Index(n) * PageBlocks
	defer f.u.Lock(first, PageBlocks).Unlock()
	defer f.w.Lock(first, PageBlocks).Unlock()
	if f.t.uncommitted(f.u, n) || f.t.uncommitted(f.w, n) {
		if err := f.steps.Flush(ctx); err != nil {
			return err
		}
	}
	return f.move(n)
}

// uncommitted says whether a page may have changes that are not committed. Its
// range is locked, so none comes; one that is not cached has none (M6).
func (t *Tree) uncommitted(l *Layer, pageNo uint32) bool {
	n := t.cache.peek(nodeKey{l.ID, pageNo})
	if n == nil {
		return false
	}
	defer t.cache.put(n)
	return n.newest.Load() > t.committed.Load()
}

// move moves one page. Both layers' range locks are held and changes committed.
func (f *fold) move(n uint32) error {
	t := f.t
	nu, nw := t.cache.get(nodeKey{f.u.ID, n}), t.cache.get(nodeKey{f.w.ID, n})
	defer t.cache.put(nu)
	defer t.cache.put(nw)
	nu.mu.Lock()
	defer nu.mu.Unlock()
	nw.mu.Lock()
	defer nw.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()

	var upper, lower page
	if _, err := t.db.loadPage(f.u.mapID, n, &upper); err != nil {
		return err
	}
	if _, err := t.db.loadPage(f.w.mapID, n, &lower); err != nil {
		return err
	}
	x, y := t.db.Begin(), newTally()
	y.data[f.u.mapID] -= int64(upper.dataBlocks())
	y.data[f.w.mapID] -= int64(lower.dataBlocks())
	for i := range lower.addr {
		switch {
		case !upper.isOwn(i):
			if lower.isOwn(i) {
				upper.set(i, lower.entry(i))
			}
		case lower.addr[i] > zeroAddr:
			y.live[lower.addr[i].Segment()]--
		}
	}
	to, from := f.u.mapID, f.w.mapID
	if f.down {
		to, from = from, to
	}
	y.data[to] += int64(upper.dataBlocks())
	x.setPage(to, n, &upper)
	x.setPage(from, n, nil)
	err := t.commitTally(x, y, false)
	nu.unload()
	nw.unload()
	return err
}

// finish moves what was written meanwhile, then unlinks w.
func (f *fold) finish(ctx context.Context) error {
	t := f.t
	defer f.u.LockAll().Unlock()
	defer f.w.LockAll().Unlock()
	if err := f.steps.Flush(ctx); err != nil {
		return err
	}
	source := f.w
	if f.down {
		source = f.u
	}
	rest, err := t.ownPages(ctx, t.mapOf(source))
	if err != nil {
		return err
	}
	for _, n := range rest {
		if err := f.move(n); err != nil {
			return err
		}
	}
	emptied, err := f.unlink()
	if err != nil {
		return err
	}
	t.cache.drop(f.u.ID, 0, ^uint32(0))
	t.cache.drop(f.w.ID, 0, ^uint32(0))
	t.counts.Lock()
	delete(t.counts.data, emptied)
	t.counts.Unlock()
	return nil
}

func (f *fold) unlink() (emptied MapID, err error) {
	t := f.t
	t.mu.Lock()
	defer t.mu.Unlock()
	u, w := f.u, f.w
	m := u.mapID
	emptied = w.mapID
	if f.down {
		m, emptied = emptied, m
	}
	r := &LayerRecord{ID: u.ID, Map: m, Born: u.born}
	if w.parent != nil {
		r.Parent = w.parent.ID
	}
	x := t.db.Begin()
	x.PutLayer(r)
	x.DeleteLayer(w.ID)
	x.ForgetMapCount(emptied)
	x.deleteFlats(w.ID)
	// All records that name w are before the replay point: finish has flushed.
	fw := Forward{Into: u.ID, First: w.born, Last: block.SegmentID(t.db.replay.Load())}
	x.putForward(w.ID, fw)
	if err := x.Commit(true); err != nil {
		return 0, err
	}
	u.mapID, u.parent = m, w.parent
	if w.parent != nil {
		delete(w.parent.kids, w)
		w.parent.addKid(u)
	}
	delete(t.layers, w.ID)
	delete(t.unnamed, w)
	t.forward(w.ID, fw)
	return emptied, nil
}
