package cow

import (
	"sync/atomic"
	"testing"
)

// Nodes with changes that are not committed may exceed the cache's bound; once
// they are committed, the cache goes back to it.
func TestCacheShrinksToItsBound(t *testing.T) {
	var committed atomic.Uint64
	c := newCache(0, &committed)
	for i := range uint32(10_000) {
		n := c.get(nodeKey{1, i})
		n.newest.Store(1)
		c.put(n)
	}
	committed.Store(1)
	for i := range uint32(40_000) {
		c.put(c.get(nodeKey{2, i}))
	}
	for i := range c.shards {
		if s := &c.shards[i]; len(s.ring) > s.limit || len(s.nodes) != len(s.ring) {
			t.Fatalf("shard %d has %d nodes (%d in the ring), want at most %d", i, len(s.nodes), len(s.ring), s.limit)
		}
	}
}
