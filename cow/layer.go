package cow

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/slackerd/slacker/block"
)

// Layer is one generation of changes, in memory.
type Layer struct {
	ID     block.LayerID
	ranges rangeLock
	newest atomic.Uint64   // the LSN of the newest change made here
	born   block.SegmentID // nothing was written for it in older segments

	// Under Tree.mu.
	parent *Layer
	kids   map[*Layer]struct{}
	mapID  MapID
	names  int // volumes whose head it is, and snapshots
	// span, if any, knows which pages the layer may hold; see there.
	span   *span
	spanAt uint32
	big    bool   // it has too many pages for a span
	moving bool   // a merge moves its pages
	shape  uint64 // counts the merges that it took part in
}

// Hold is a locked range of a layer.
type Hold struct {
	l *Layer
	h *rangeHold
}

// Lock locks the blocks [first, first+count) against other changes, in order of
// arrival (invariant M5). Reads take no lock.
func (l *Layer) Lock(first block.Index, count uint64) Hold {
	return Hold{l, l.ranges.lock(first, first+block.Index(count))}
}

// LockAll locks the whole layer.
func (l *Layer) LockAll() Hold { return Hold{l, l.ranges.lock(0, ^block.Index(0))} }

// Unlock releases the range.
func (h Hold) Unlock() { h.l.ranges.unlock(h.h) }

// Tree is all layers and their pages. Its methods may run concurrently; the
// rules for changes are at each.
type Tree struct {
	db    *DB
	cache *cache

	mu     sync.RWMutex // guards the links of all layers, and page moves between maps
	layers map[block.LayerID]*Layer
	// unnamed are the layers without a name: what upkeep looks at, however many
	// volumes there are.
	unnamed map[*Layer]struct{}
	// merged says which layer holds what an older layer held that was merged
	// into it: the log's records keep the number of the layer they were written
	// for.
	merged map[block.LayerID]Forward
	// into is the other way round: by layer, all that were merged into it.
	into  map[block.LayerID][]block.LayerID
	book  spanBook
	flats flattener

	counts struct {
		sync.Mutex
		live map[block.SegmentID]int64 // blocks in use by segment, in memory's view
		data map[MapID]int64           // data blocks by map
	}
	committed atomic.Uint64 // every change up to this LSN is committed
}

// NewTree links the layers of a catalog and checks that they hang together.
// cacheBytes bounds the pages kept in memory. Close ends it.
func NewTree(db *DB, c *Catalog, cacheBytes int64) (*Tree, error) {
	t := &Tree{db: db, layers: make(map[block.LayerID]*Layer, len(c.Layers)), unnamed: map[*Layer]struct{}{}, merged: c.Merged,
		into: map[block.LayerID][]block.LayerID{}}
	t.cache = newCache(cacheBytes, &t.committed)
	t.book.limit = cacheBytes / spanShare
	t.book.ctx, t.book.stop = context.WithCancel(context.Background())
	t.counts.live, t.counts.data = c.Live, c.Counts
	if c.Replay.NextLSN > 0 {
		t.committed.Store(c.Replay.NextLSN - 1)
	}
	maps := map[MapID]block.LayerID{}
	for _, r := range c.Layers {
		if other, taken := maps[r.Map]; taken {
			return nil, block.Errorf(block.Corrupt, "catalog: layers %d and %d share map %d", other, r.ID, r.Map)
		}
		maps[r.Map] = r.ID
		l := &Layer{ID: r.ID, mapID: r.Map, born: r.Born}
		t.layers[r.ID] = l
		t.unnamed[l] = struct{}{}
	}
	for _, r := range c.Layers {
		if r.Parent == 0 {
			continue
		}
		p := t.layers[r.Parent]
		if p == nil || r.Parent >= r.ID {
			return nil, block.Errorf(block.Corrupt, "catalog: layer %d has parent %d, which is no older layer", r.ID, r.Parent)
		}
		t.layers[r.ID].parent = p
		p.addKid(t.layers[r.ID])
	}
	for from := range t.merged {
		if l, _ := t.resolve(from); l != nil {
			t.into[l.ID] = append(t.into[l.ID], from)
		}
	}
	return t, nil
}

// Layer returns the layer of that number, or the one it was merged into, or
// nil when what it held is gone.
func (t *Tree) Layer(id block.LayerID) *Layer {
	t.mu.RLock()
	l, hops := t.resolve(id)
	t.mu.RUnlock()
	if hops > 1 && l != nil { // a long history of merges is walked once
		t.mu.Lock()
		if l, hops = t.resolve(id); hops > 1 && l != nil {
			f := t.merged[id]
			f.Into = l.ID
			t.merged[id] = f
		}
		t.mu.Unlock()
	}
	return l
}

// resolve follows merges, under mu.
func (t *Tree) resolve(id block.LayerID) (l *Layer, hops int) {
	for {
		if l := t.layers[id]; l != nil {
			return l, hops
		}
		next, ok := t.merged[id]
		if !ok {
			return nil, hops
		}
		id = next.Into
		hops++
	}
}

// Add makes a layer, named once, on parent (nil for none) with a map of the
// same number. The caller commits its record (Record).
func (t *Tree) Add(id block.LayerID, parent *Layer) *Layer {
	l := &Layer{ID: id, mapID: MapID(id), parent: parent, names: 1, born: block.SegmentID(t.db.replay.Load())}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.layers[id] = l
	if parent != nil {
		parent.addKid(l)
	}
	return l
}

// Drop undoes Add when the commit failed, or forgets a layer that is deleted.
// It has no children.
func (t *Tree) Drop(l *Layer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cut(l)
	t.book.makeRoom(t, 0)
	delete(t.layers, l.ID)
	delete(t.unnamed, l)
	if l.parent != nil {
		delete(l.parent.kids, l)
	}
}

func (l *Layer) addKid(k *Layer) {
	if l.kids == nil {
		l.kids = map[*Layer]struct{}{}
	}
	l.kids[k] = struct{}{}
}

// Record returns the layer as it is to be stored.
func (t *Tree) Record(l *Layer) *LayerRecord {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return l.record()
}

func (l *Layer) record() *LayerRecord {
	r := &LayerRecord{ID: l.ID, Map: l.mapID, Born: l.born}
	if l.parent != nil {
		r.Parent = l.parent.ID
	}
	return r
}

// Name adds n names (volume heads, snapshots) to a layer; n may be negative.
func (t *Tree) Name(l *Layer, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l.names += n
	if l.names == 0 {
		t.unnamed[l] = struct{}{}
	} else {
		delete(t.unnamed, l)
	}
}

// Lookups is how many pages were looked up in the store so far.
func (t *Tree) Lookups() uint64 { return t.db.gets.Load() }

// Parent returns the parent of a layer, or nil.
func (t *Tree) Parent(l *Layer) *Layer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return l.parent
}

// DataBlocks is the number of data blocks that the layer itself holds.
func (t *Tree) DataBlocks(l *Layer) uint64 {
	t.mu.RLock()
	m := l.mapID
	t.mu.RUnlock()
	t.counts.Lock()
	defer t.counts.Unlock()
	return uint64(max(0, t.counts.data[m]))
}

// Live returns how many blocks of a segment are in use.
func (t *Tree) Live(s block.SegmentID) int64 {
	t.counts.Lock()
	defer t.counts.Unlock()
	return t.counts.live[s]
}

// LiveBlocks is the number of blocks in use in all segments.
func (t *Tree) LiveBlocks() uint64 {
	t.counts.Lock()
	defer t.counts.Unlock()
	var n int64
	for _, c := range t.counts.live {
		n += c
	}
	return uint64(max(0, n))
}

// ForgetSegment drops the counter of a segment that is gone.
func (t *Tree) ForgetSegment(s block.SegmentID) {
	t.counts.Lock()
	defer t.counts.Unlock()
	delete(t.counts.live, s)
}
