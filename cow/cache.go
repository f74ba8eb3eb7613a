package cow

import (
	"sync"
	"sync/atomic"

	"github.com/slackerd/slacker/block"
)

// cache keeps pages by layer, within a bound of memory. A node that is in use,
// or has changes that are not committed (invariant M6), is not evicted.
type cache struct {
	shards    [64]shard
	committed *atomic.Uint64
}

type nodeKey struct {
	layer block.LayerID
	page  uint32
}

// node is one page of one layer, resolved through its ancestors.
//
// Lock order: a layer's node before its ancestors', nodes before Tree.mu.
type node struct {
	key  nodeKey
	uses int  // callers that hold it; under shard.mu
	hot  bool // touched since the hand passed; under shard.mu

	mu     sync.RWMutex
	loaded bool
	// p is what the layer sees. When shared, it is an ancestor's, no entry is
	// the layer's own, and it must be copied before a change.
	p      *page
	shared bool
	// hops is about how many layers have to be asked to load it, for wantFlat.
	hops int
	// newest is the LSN of the newest change made here.
	newest atomic.Uint64
	// pins counts those that rely on it to stay loaded. It grows only under mu
	// while loaded.
	pins atomic.Int32
}

type shard struct {
	mu    sync.Mutex
	nodes map[nodeKey]*node
	ring  []*node // for the clock hand; the same nodes
	hand  int
	limit int // nodes
	// How often get found what it was asked for.
	hits, misses uint64
}

// nodeOverhead is what a node takes beside its page, roughly.
const nodeOverhead = 192

func newCache(bytes int64, committed *atomic.Uint64) *cache {
	c := &cache{committed: committed}
	for i := range c.shards {
		c.shards[i].nodes = map[nodeKey]*node{}
		c.shards[i].limit = max(16, int(bytes/int64(len(c.shards))/(pageBytes+nodeOverhead)))
	}
	return c
}

// CachePages is how many pages are kept in memory.
func (t *Tree) CachePages() int { return t.cache.shards[0].limit * len(t.cache.shards) }

// CacheUse says how pages of the map are kept in memory.
type CacheUse struct {
	Pages, Limit uint64 // that are there, and that are kept
	// Hits and Misses count, since the store was opened, how often a page was
	// asked for that was there, and one that was not.
	Hits, Misses uint64
}

// CacheUse returns how the cache of pages is used.
func (t *Tree) CacheUse() CacheUse {
	u := CacheUse{Limit: uint64(t.CachePages())}
	for i := range t.cache.shards {
		s := &t.cache.shards[i]
		s.mu.Lock()
		u.Pages += uint64(len(s.nodes))
		u.Hits += s.hits
		u.Misses += s.misses
		s.mu.Unlock()
	}
	return u
}

func (c *cache) shard(k nodeKey) *shard {
	h := (uint64(k.layer)*0x9E3779B97F4A7C15 ^ uint64(k.page)) * 0xD6E8FEB86659FD93
	return &c.shards[h>>58]
}

// get returns the node, in use until put. It may not be loaded.
func (c *cache) get(k nodeKey) *node {
	s := c.shard(k)
	s.mu.Lock()
	n := s.nodes[k]
	if n != nil {
		s.hits++
	} else {
		s.misses++
		n = &node{key: k}
		// Two for one, so that a cache that had to grow shrinks again.
		for i := 0; i < 2 && len(s.ring) >= s.limit; i++ {
			s.evict(c.committed.Load())
		}
		s.nodes[k] = n
		s.ring = append(s.ring, n)
	}
	n.uses++
	n.hot = true
	s.mu.Unlock()
	return n
}

// peek is get for a node that is there.
func (c *cache) peek(k nodeKey) *node {
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[k]
	if n != nil {
		s.hits++ // a miss is counted by the get that follows
		n.uses++
		n.hot = true
	}
	return n
}

func (c *cache) put(n *node) {
	s := c.shard(n.key)
	s.mu.Lock()
	n.uses--
	s.mu.Unlock()
}

// evict drops one node that nobody needs, if it finds one soon.
func (s *shard) evict(committed uint64) {
	for range min(2*len(s.ring), 64) {
		if s.hand >= len(s.ring) {
			s.hand = 0
		}
		n := s.ring[s.hand]
		if n.uses == 0 && !n.hot && n.newest.Load() <= committed {
			last := len(s.ring) - 1
			s.ring[s.hand] = s.ring[last]
			s.ring[last] = nil
			s.ring = s.ring[:last]
			delete(s.nodes, n.key)
			return
		}
		n.hot = false
		s.hand++
	}
}

// drop forgets what is known of a layer's pages in [first, end). The caller
// holds the layer's range lock over them and has committed their changes.
func (c *cache) drop(l block.LayerID, first, end uint32) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		var hit []*node
		for k, n := range s.nodes {
			if k.layer == l && k.page >= first && k.page < end {
				n.uses++
				hit = append(hit, n)
			}
		}
		s.mu.Unlock()
		for _, n := range hit {
			n.mu.Lock()
			n.unload()
			n.mu.Unlock()
			c.put(n)
		}
	}
}

func (n *node) unload() { n.loaded, n.p, n.shared = false, nil, false }

// isOwn reports whether entry i is the layer's own.
func (n *node) isOwn(i int) bool { return !n.shared && n.p.isOwn(i) }

// holds reports whether the layer itself has something of the page.
func (n *node) holds() bool { return !n.shared && n.p.own != [PageBlocks / 64]uint64{} }

// writable makes the page the node's own to change. With fresh it is a copy in
// any case: pages of sealed layers are shared with descendants.
func (n *node) writable(fresh bool) {
	if !n.shared && !fresh {
		return
	}
	p := *n.p
	if n.shared {
		p.own = [PageBlocks / 64]uint64{}
		n.hops++
	}
	n.p, n.shared = &p, false
}
