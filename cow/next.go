package cow

import (
	"context"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/slackerd/slacker/block"
)

// NextPage returns the first page of [from, to) of which l or an ancestor may
// hold something, or to: all pages before it read as zeroes. It does not look at
// the pages one by one. What is written meanwhile may be missed; the lock of the
// range (Layer.Lock) keeps that out.
func (t *Tree) NextPage(ctx context.Context, l *Layer, from, to uint32) (uint32, error) {
	// Memory first: what is committed between the two is found in the store.
	best := t.nextDirty(t.dirtyLayers(l), from, to)
	best, maps, d := t.nextOfSpans(l, from, best)
	err := d.nextOf(ctx, maps, from, &best)
	if len(maps) > learnAfter {
		if p := t.Parent(l); p != nil {
			t.wantSpans(p)
		}
	}
	return best, errors.Join(err, d.view.Close())
}

// dirtyLayers returns l and its ancestors so far as they may have changes that are
// not committed.
func (t *Tree) dirtyLayers(l *Layer) map[block.LayerID]bool {
	dirty := map[block.LayerID]bool{}
	t.mu.RLock()
	defer t.mu.RUnlock()
	for a := l; a != nil; a = a.parent {
		if a.newest.Load() > t.committed.Load() {
			dirty[a.ID] = true
		}
	}
	return dirty
}

// nextDirty returns the first page of [from, to) that has changes in one of the
// layers which are not committed, or to. Such pages are in the cache (M6).
func (t *Tree) nextDirty(dirty map[block.LayerID]bool, from, to uint32) uint32 {
	if len(dirty) == 0 {
		return to
	}
	for i := range t.cache.shards {
		s := &t.cache.shards[i]
		s.mu.Lock()
		for k, n := range s.nodes {
			if k.page >= from && k.page < to && dirty[k.layer] && n.newest.Load() > t.committed.Load() {
				to = k.page
			}
		}
		s.mu.Unlock()
	}
	return to
}

// nextOfSpans is NextPage as far as the spans know. It returns the maps of the
// other layers of the chain, and a view of the store of the same moment, to be
// closed.
func (t *Tree) nextOfSpans(l *Layer, from, to uint32) (best uint32, maps []MapID, d *DB) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for a := l; a != nil; {
		s := a.span
		if s == nil {
			maps = append(maps, a.mapID)
			a = a.parent
			continue
		}
		to = s.next(from, to, a.spanAt)
		a = s.layers[len(s.layers)-1].parent
	}
	return to, maps, t.db.snapshot()
}

// next returns the first page of [from, to) that a layer of the span, from a
// position on, may hold, or to.
func (s *span) next(from, to, at uint32) uint32 {
	pairs := s.index.pairs
	i, _ := slices.BinarySearch(pairs, pair(from, 0))
	for ; i < len(pairs) && pairPage(pairs[i]) < to; i++ {
		if k := pairAt(pairs[i]); k >= at && k-s.base < uint32(len(s.layers)) {
			return pairPage(pairs[i])
		}
	}
	return to
}

// nextOf lowers best to the first page from on that one of the maps has.
func (d *DB) nextOf(ctx context.Context, maps []MapID, from uint32, best *uint32) (err error) {
	it, err := d.reader().NewIter(&pebble.IterOptions{LowerBound: []byte{keyPage}, UpperBound: prefixEnd([]byte{keyPage})})
	if err != nil {
		return readError(err)
	}
	defer func() {
		if cerr := it.Close(); err == nil && cerr != nil {
			err = readError(cerr)
		}
	}()
	for _, m := range maps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if it.SeekGE(pageKey(m, from)) {
			if of, n, ok := parsePageKey(it.Key()); ok && of == m && n < *best {
				*best = n
			}
		}
		if err := it.Error(); err != nil {
			return readError(err)
		}
	}
	return nil
}
