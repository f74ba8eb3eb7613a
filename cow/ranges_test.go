package cow

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/slackerd/slacker/block"
)

// TestRangeLockExcludes: of overlapping ranges one is held at a time, which is
// what keeps changes of the same blocks apart (M5).
func TestRangeLockExcludes(t *testing.T) {
	var l rangeLock
	var held [64]atomic.Int32
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range 500 {
				first := r.IntN(60)
				end := first + 1 + r.IntN(64-first-1)
				h := l.lock(block.Index(first), block.Index(end))
				for i := first; i < end; i++ {
					if held[i].Add(1) != 1 {
						t.Error("two hold the same block")
					}
				}
				for i := first; i < end; i++ {
					held[i].Add(-1)
				}
				l.unlock(h)
			}
		})
	}
	wg.Wait()
	if len(l.queue) != 0 {
		t.Errorf("%d holds are left", len(l.queue))
	}
}

// TestRangeLockOrder: those that wait for a range get it as they came, and one
// that overlaps nothing does not wait.
func TestRangeLockOrder(t *testing.T) {
	var l rangeLock
	first := l.lock(0, 10)
	var order []int
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			h := l.lock(5, 15)
			order = append(order, i) // under the lock
			l.unlock(h)
		})
		for queued := 0; queued != i+2; { // it has its place before the next comes
			l.mu.Lock()
			queued = len(l.queue)
			l.mu.Unlock()
		}
	}
	l.unlock(l.lock(20, 30))
	l.unlock(first)
	wg.Wait()
	for i, n := range order {
		if i != n {
			t.Fatalf("order %v", order)
		}
	}
}

// TestEvictionBounds: the cache stays within its bound, and drops no page that
// is in use or has changes that are not committed (M6).
func TestEvictionBounds(t *testing.T) {
	var committed atomic.Uint64
	c := newCache(64*16*(pageBytes+nodeOverhead), &committed)
	touch := func(l block.LayerID) {
		for p := range uint32(5000) {
			n := c.get(nodeKey{l, p})
			n.loaded, n.p, n.shared = true, &emptyPage, true
			c.put(n)
		}
	}
	used := c.get(nodeKey{1, 0})
	dirty := map[nodeKey]*node{}
	for p := range uint32(300) {
		n := c.get(nodeKey{2, p})
		n.newest.Store(5)
		dirty[n.key] = n
		c.put(n)
	}
	count := func() (n int) {
		for i := range c.shards {
			n += len(c.shards[i].nodes)
			if len(c.shards[i].nodes) != len(c.shards[i].ring) {
				t.Fatal("map and ring differ")
			}
		}
		return n
	}
	touch(3)
	if n := count(); n > 64*16+len(dirty)+1 {
		t.Errorf("%d pages are cached, want at most %d beside %d that must stay", n, 64*16, len(dirty)+1)
	}
	for k, n := range dirty {
		if c.peek(k) != n {
			t.Fatal("a page with changes was evicted")
		}
		c.put(n)
	}
	if c.peek(used.key) != used {
		t.Fatal("a page in use was evicted")
	}
	c.put(used)
	c.put(used)
	committed.Store(5)
	touch(4)
	if n := count(); n > 64*16+len(dirty)+1 {
		t.Errorf("%d pages are cached after the commit", n)
	}
}
