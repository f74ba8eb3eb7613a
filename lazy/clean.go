package lazy

import (
	"sync/atomic"

	"github.com/slackerd/slacker/block"
)

const (
	wordBlocks  = 64
	chunkBlocks = 256 << 10 // 1 GiB of a volume; 32 KiB of memory
)

type chunk [chunkBlocks / wordBlocks]atomic.Uint64

// allDirty stands for a chunk of which every block is dirty.
var allDirty = new(chunk)

// cleanMap says which blocks are clean (Z1, Z3). Its methods may run concurrently.
type cleanMap struct {
	// known: the server has told of the blocks before it.
	known  atomic.Uint64
	dirty  []atomic.Pointer[chunk] // nil: none of it
	blocks uint64                  // of the base; what lies beyond is never clean
}

func newCleanMap(baseBytes uint64) *cleanMap {
	n := baseBytes / block.Size
	return &cleanMap{dirty: make([]atomic.Pointer[chunk], (n+chunkBlocks-1)/chunkBlocks), blocks: n}
}

// tell says that the blocks before end are clean but for those marked.
func (m *cleanMap) tell(end uint64) { m.known.Store(min(end, m.blocks)) }

// mark makes blocks [first, end) dirty.
func (m *cleanMap) mark(first, end uint64) {
	end = min(end, m.blocks)
	for first < end {
		c := first / chunkBlocks
		stop := min(end, (c+1)*chunkBlocks)
		m.markIn(&m.dirty[c], first, stop, stop-first == min(chunkBlocks, m.blocks-c*chunkBlocks))
		first = stop
	}
}

func (m *cleanMap) markIn(p *atomic.Pointer[chunk], first, end uint64, all bool) {
	if all { // marks that are made in the old one meanwhile are in this one too
		p.Store(allDirty)
		return
	}
	c := p.Load()
	for c == nil {
		p.CompareAndSwap(nil, new(chunk))
		c = p.Load()
	}
	if c == allDirty {
		return
	}
	for i := first; i < end; {
		at := i % chunkBlocks
		bit := at % wordBlocks
		n := min(wordBlocks-bit, end-i)
		mask := ^uint64(0) >> (wordBlocks - n) << bit
		if w := &c[at/wordBlocks]; w.Load()&mask != mask {
			w.Or(mask)
		}
		i += n
	}
}

// clean reports whether a block is clean.
func (m *cleanMap) clean(i uint64) bool {
	if i >= m.known.Load() {
		return false
	}
	c := m.dirty[i/chunkBlocks].Load()
	return c == nil || c != allDirty && c[i%chunkBlocks/wordBlocks].Load()&(1<<(i%wordBlocks)) == 0
}

// run returns the end of the run of blocks from first on that are all clean, or
// all not, within end.
func (m *cleanMap) run(first, end uint64) (stop uint64, clean bool) {
	clean = m.clean(first)
	for stop = first + 1; stop < end && m.clean(stop) == clean; stop++ {
	}
	return stop, clean
}
