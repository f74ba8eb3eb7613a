package cow

import (
	"context"
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
	epoch, hops := t.flats.epoch.Load(), 0
	below, belowNode, err := t.parentPage(l, n.key.page)
	if err != nil {
		return err
	}
	if belowNode != nil {
		defer t.cache.put(belowNode)
		defer belowNode.mu.RUnlock()
		hops = t.hopsOf(belowNode, l, epoch)
	}
	t.mu.RLock()
	m := l.mapID
	t.mu.RUnlock()
	var own page
	found, err := t.db.loadPage(m, n.key.page, &own)
	if err != nil {
		return err
	}
	n.hops = hops
	if !found {
		n.p, n.shared, n.loaded = below, true, true
		return nil
	}
	own.under(below)
	n.p, n.shared, n.loaded = &own, false, true
	n.hops++
	return nil
}

// hopsOf returns how many layers a page of l's parent took, after having it stored
// flat if that are too many.
func (t *Tree) hopsOf(below *node, l *Layer, epoch uint64) int {
	if below.hops > flattenAfter && below.holds() &&
		t.wantFlat(flatJob{t.Parent(l), below.key.page, below.p, epoch}, below.hops, below.newest.Load() <= t.committed.Load()) {
		return 1
	}
	return below.hops
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

// Forget drops what is cached of a block of a layer and its ancestors, but for
// changes that are not committed, and the flat pages that say what the stale
// entry says, so that the next Lookup asks the maps. It is for a reader that met
// an address which the cleaner has emptied: a layer's own entries follow the
// cleaner, copies of them in the pages of its descendants do not.
func (t *Tree) Forget(l *Layer, i block.Index, stale Entry) error {
	pageNo := uint32(i / PageBlocks)
	if err := t.dropFlats(l, pageNo, int(i%PageBlocks), stale); err != nil {
		return err
	}
	var chain []*Layer
	for a := l; a != nil; a = t.Parent(a) {
		chain = append(chain, a)
	}
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
