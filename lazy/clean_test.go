package lazy

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/slackerd/slacker/block"
)

// TestCleanMap compares with a slice of flags.
func TestCleanMap(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	const n = 2*chunkBlocks + 1000
	m := newCleanMap(n * block.Size)
	dirty := make([]bool, n)
	known := uint64(0)
	for range 200 {
		first := rng.Uint64N(n + 100)
		count := rng.Uint64N(300)
		if rng.IntN(20) == 0 {
			count = rng.Uint64N(2 * chunkBlocks)
		}
		m.mark(first, first+count)
		for i := first; i < min(first+count, n); i++ {
			dirty[i] = true
		}
		known = max(known, rng.Uint64N(n+100))
		m.tell(known)
		for range 200 {
			i := rng.Uint64N(n + 200)
			want := i < min(known, n) && !dirty[i]
			if i < n && m.clean(i) != want {
				t.Fatalf("block %d is clean: %v, want %v", i, !want, want)
			}
		}
	}
}

// TestCleanMapIsShared: marks of several goroutines are all there.
func TestCleanMapIsShared(t *testing.T) {
	const n = chunkBlocks + 64
	m := newCleanMap(n * block.Size)
	m.tell(n)
	var all sync.WaitGroup
	for g := range uint64(4) {
		all.Go(func() {
			for i := g; i < n; i += 4 {
				m.mark(i, i+1)
			}
			m.mark(0, chunkBlocks)
		})
	}
	all.Wait()
	for i := range uint64(n) {
		if m.clean(i) {
			t.Fatalf("the mark of block %d is lost", i)
		}
	}
}
