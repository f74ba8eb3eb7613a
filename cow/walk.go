package cow

import (
	"errors"
	"runtime"

	"github.com/cockroachdb/pebble/v2"
)

// loadSealed fills the node of a sealed layer under its lock, walking its
// ancestors without caching their pages: a chain of a thousand layers costs
// one page of memory. It stops at the first ancestor whose page is cached, or
// stored flat. What it finds stays right for all descendants, since it never
// changes (M4).
func (t *Tree) loadSealed(n *node, l *Layer) error {
	for !n.loaded {
		w := walk{t: t, pageNo: n.key.page, epoch: t.flats.epoch.Load()}
		busy, err := w.resolve(l)
		if err != nil {
			return err
		}
		if w.vain > learnAfter {
			t.wantSpans(l)
		}
		if !busy {
			n.p, n.shared, n.hops, n.loaded = w.p, false, w.hops, true
			if t.wantFlat(flatJob{w.top, w.pageNo, w.p, w.epoch}, w.hops, !w.unsettled) {
				n.hops = 1
			}
			return nil
		}
		runtime.Gosched() // whoever has the ancestor's page may wait for Tree.mu
	}
	return nil
}

// walk resolves a page of a sealed layer from the store and from the cached
// pages of its ancestors. It passes over the layers that by their span have
// nothing of the page.
type walk struct {
	t      *Tree
	pageNo uint32
	p      *page
	absent int    // entries that p has not yet
	vain   int    // layers that were asked, had nothing, and could be learned
	hops   int    // layers, and pages of ancestors by what they took, that had something
	top    *Layer // the first of these, if it holds some: what it sees is what l sees
	epoch  uint64 // of the flat pages when the walk began
	// unsettled says that p has entries that are not committed.
	unsettled bool
}

// resolve fills p with what l sees. An ancestor's cached page may hold changes
// that are not committed, so it must not be passed over: busy says that one
// could not be had at once, and the caller tries again.
func (w *walk) resolve(l *Layer) (busy bool, err error) {
	t := w.t
	t.mu.RLock()
	defer t.mu.RUnlock()
	w.p, w.absent = new(page), PageBlocks
	for a, flat := l.skip(w.pageNo); a != nil; a, flat = a.parent.skip(w.pageNo) {
		if a != l {
			cached, busy := w.underCached(a)
			if busy {
				return true, nil
			}
			if cached {
				break
			}
		}
		full, err := w.ask(a, a == l, flat)
		if err != nil {
			return false, err
		}
		if full {
			break
		}
	}
	return false, nil
}

// ask takes what a has of the page, and reports whether nothing below a counts.
// With own, a's own entries are wanted as such: those come from its map in any
// case.
func (w *walk) ask(a *Layer, own bool, flat flatHint) (full bool, err error) {
	if flat == flatThere && !own && w.underFlat(a) {
		return true, nil
	}
	found, err := w.underOwn(a, own)
	if err != nil {
		return false, err
	}
	if !found {
		if w.t.learnable(a) {
			w.vain++
		}
		return false, nil
	}
	if w.absent == 0 {
		return true, nil
	}
	if flat == flatThere && own || flat == flatUnknown && a.parent != nil {
		return w.underFlat(a), nil
	}
	return false, nil
}

// met notes that a had something of the page.
func (w *walk) met(a *Layer) {
	if w.top == nil {
		w.top = a
	}
	w.hops++
}

// underOwn completes p from a's own entries.
func (w *walk) underOwn(a *Layer, own bool) (found bool, err error) {
	d := w.t.db
	d.gets.Add(1)
	key := pageKey(a.mapID, w.pageNo)
	v, closer, err := d.reader().Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, readError(err)
	}
	given, err := underlayPage(w.p, key, v, own)
	if cerr := closer.Close(); err == nil && cerr != nil {
		err = readError(cerr)
	}
	w.absent -= given
	w.met(a)
	return true, err
}

// underCached completes p from an ancestor's page, if that is cached. It does
// not wait for the page: that would be against the lock order.
func (w *walk) underCached(a *Layer) (cached, busy bool) {
	n := w.t.cache.peek(nodeKey{a.ID, w.pageNo})
	if n == nil {
		return false, false
	}
	defer w.t.cache.put(n)
	if !n.mu.TryRLock() {
		return false, true
	}
	defer n.mu.RUnlock()
	if !n.loaded {
		return false, false
	}
	w.p.under(n.p)
	if w.hops += n.hops; w.top == nil && n.holds() {
		w.top = a
	}
	w.unsettled = n.newest.Load() > w.t.committed.Load()
	return true, false
}
