package cow

import (
	"context"
	"runtime"
	"slices"

	"github.com/slackerd/slacker/block"
)

// emptyPage is what a page is that no layer has touched.
var emptyPage page

// use returns the loaded node of a page, in use until put.
func (t *Tree) use(l *Layer, pageNo uint32) (*node, error) {
	n := t.cache.get(nodeKey{l.ID, pageNo})
	n.mu.RLock()
	loaded := n.loaded
	n.mu.RUnlock()
	if loaded {
		return n, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := t.load(n, l); err != nil {
		t.cache.put(n)
		return nil, err
	}
	return n, nil
}

// load fills a node under its lock: the layer's own entries over what its
// parent sees. The parent's page is cached too, for all its children.
func (t *Tree) load(n *node, l *Layer) error {
	if n.loaded {
		return nil
	}
	// The parent's node is locked before the own page is read: a layer merge
	// moves entries between the two maps with both nodes locked.
	below, belowNode, err := t.parentPage(l, n.key.page)
	if err != nil {
		return err
	}
	if belowNode != nil {
		defer t.cache.put(belowNode)
		defer belowNode.mu.RUnlock()
	}
	t.mu.RLock()
	m := l.mapID
	t.mu.RUnlock()
	var own page
	found, err := t.db.loadPage(m, n.key.page, &own)
	if err != nil {
		return err
	}
	if !found {
		n.p, n.shared, n.loaded = below, true, true
		return nil
	}
	own.under(below)
	n.p, n.shared, n.loaded = &own, false, true
	return nil
}

// parentPage returns what the parent of l sees, with the parent's node locked
// for reading and in use, or the empty page and nil when there is no parent.
func (t *Tree) parentPage(l *Layer, pageNo uint32) (*page, *node, error) {
	t.mu.RLock()
	parent := l.parent
	t.mu.RUnlock()
	if parent == nil {
		return &emptyPage, nil, nil
	}
	for {
		n := t.cache.get(nodeKey{parent.ID, pageNo})
		n.mu.RLock()
		if n.loaded {
			return n.p, n, nil
		}
		n.mu.RUnlock()
		n.mu.Lock()
		err := t.loadSealed(n, parent)
		n.mu.Unlock()
		if err != nil {
			t.cache.put(n)
			return nil, nil, err
		}
		t.cache.put(n)
	}
}

// loadSealed fills the node of a sealed layer under its lock, walking its
// ancestors without caching their pages: a chain of a thousand layers costs
// one page of memory. It stops at the first ancestor whose page is cached. What
// it finds stays right for all descendants, since it never changes (M4).
func (t *Tree) loadSealed(n *node, l *Layer) error {
	for !n.loaded {
		w := walk{t: t, pageNo: n.key.page}
		busy, err := w.resolve(l)
		if err != nil {
			return err
		}
		if w.vain > learnAfter {
			t.wantSpans(l)
		}
		if !busy {
			n.p, n.shared, n.loaded = w.p, false, true
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
	vain   int // layers that were asked, had nothing, and could be learned
}

// resolve fills p with what l sees. An ancestor's cached page may hold changes
// that are not committed, so it must not be passed over: busy says that one
// could not be had at once, and the caller tries again.
func (w *walk) resolve(l *Layer) (busy bool, err error) {
	t := w.t
	t.mu.RLock()
	defer t.mu.RUnlock()
	w.p = new(page)
	own := w.p.own
	for a := l.skip(w.pageNo); a != nil; a = a.parent.skip(w.pageNo) {
		if a != l {
			cached, busy := t.underCached(w.p, a, w.pageNo)
			if busy {
				return true, nil
			}
			if cached {
				break
			}
		}
		q, err := w.ask(a)
		if err != nil {
			return false, err
		}
		if q == nil {
			continue
		}
		full := w.p.under(q)
		if a == l {
			own = q.own
		}
		if full {
			break
		}
	}
	w.p.own = own
	return false, nil
}

// ask returns what a itself has of the page, or nil.
func (w *walk) ask(a *Layer) (*page, error) {
	var q page
	found, err := w.t.db.loadPage(a.mapID, w.pageNo, &q)
	if err != nil {
		return nil, err
	}
	if found {
		return &q, nil
	}
	if w.t.learnable(a) {
		w.vain++
	}
	return nil, nil
}

// underCached completes p from an ancestor's page, if that is cached. It does
// not wait for the page: that would be against the lock order.
func (t *Tree) underCached(p *page, a *Layer, pageNo uint32) (cached, busy bool) {
	n := t.cache.peek(nodeKey{a.ID, pageNo})
	if n == nil {
		return false, false
	}
	defer t.cache.put(n)
	if !n.mu.TryRLock() {
		return false, true
	}
	defer n.mu.RUnlock()
	if !n.loaded {
		return false, false
	}
	p.under(n.p)
	return true, false
}

// Lookup writes the entries of the blocks from first on into dst. An absent
// entry reads as zeroes.
func (t *Tree) Lookup(l *Layer, first block.Index, dst []Entry) error {
	for len(dst) > 0 {
		at := int(first % PageBlocks)
		n, err := t.use(l, uint32(first/PageBlocks))
		if err != nil {
			return err
		}
		c := min(len(dst), PageBlocks-at)
		n.mu.RLock()
		if !n.loaded { // dropped since; rare
			n.mu.RUnlock()
			t.cache.put(n)
			continue
		}
		for i := range c {
			dst[i] = n.p.entry(at + i)
		}
		n.mu.RUnlock()
		t.cache.put(n)
		first, dst = first+block.Index(c), dst[c:]
	}
	return nil
}

// Forget drops what is cached of blocks [first, first+count) of a layer and its
// ancestors, but for changes that are not committed, so that the next Lookup
// asks the store. It is for a reader that met an address which the cleaner has
// emptied: a layer's own entries follow the cleaner, copies of them in the
// pages of its descendants do not.
func (t *Tree) Forget(l *Layer, first block.Index, count uint64) error {
	var chain []*Layer
	for a := l; a != nil; a = t.Parent(a) {
		chain = append(chain, a)
	}
	for pageNo := uint32(first / PageBlocks); uint64(pageNo)*PageBlocks < uint64(first)+count; pageNo++ {
		for _, a := range slices.Backward(chain) {
			n := t.cache.peek(nodeKey{a.ID, pageNo})
			if n == nil {
				continue
			}
			n.mu.Lock()
			err := t.refresh(n, a)
			n.mu.Unlock()
			t.cache.put(n)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// refresh makes a node forget what it has from its ancestors. It is unloaded if
// nobody relies on it.
func (t *Tree) refresh(n *node, l *Layer) error {
	if !n.loaded {
		return nil
	}
	if n.pins.Load() == 0 && n.newest.Load() <= t.committed.Load() {
		n.unload()
		return nil
	}
	below, belowNode, err := t.parentPage(l, n.key.page)
	if err != nil {
		return err
	}
	if belowNode != nil {
		defer t.cache.put(belowNode)
		defer belowNode.mu.RUnlock()
	}
	if n.shared {
		n.p = below
		return nil
	}
	p := *n.p
	for i := range p.addr {
		if !p.isOwn(i) {
			p.addr[i], p.sum[i] = 0, 0
		}
	}
	p.under(below)
	n.p = &p
	return nil
}

// LookupCached is Lookup when all the pages are in memory; else it returns
// false at once.
func (t *Tree) LookupCached(l *Layer, first block.Index, dst []Entry) bool {
	for len(dst) > 0 {
		n := t.cache.peek(nodeKey{l.ID, uint32(first / PageBlocks)})
		if n == nil {
			return false
		}
		at := int(first % PageBlocks)
		c := min(len(dst), PageBlocks-at)
		n.mu.RLock()
		loaded := n.loaded
		if loaded {
			for i := range c {
				dst[i] = n.p.entry(at + i)
			}
		}
		n.mu.RUnlock()
		t.cache.put(n)
		if !loaded {
			return false
		}
		first, dst = first+block.Index(c), dst[c:]
	}
	return true
}

// Untouched reports whether a layer holds nothing of its own and never did. A
// change that is being applied may be missed: the caller keeps writers away.
func (t *Tree) Untouched(ctx context.Context, l *Layer) (bool, error) {
	pages, err := t.db.pagesUpTo(ctx, t.mapOf(l), 0)
	// What entered the map meanwhile has left its mark here before.
	return pages != nil && l.newest.Load() == 0, err
}
