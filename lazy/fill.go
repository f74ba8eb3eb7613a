package lazy

import (
	"sync"
	"sync/atomic"

	"github.com/slackerd/slacker/blockcache"
)

const (
	// maxQueuedBytes is how much waits to be filled; what comes beyond is dropped.
	maxQueuedBytes = 8 << 20
	maxQueued      = 1024
)

// filler fills in the background, so that nobody waits for the disk.
type filler struct {
	base   *blockcache.Base
	stats  *counters
	queue  chan kept
	queued atomic.Int64 // bytes
	done   sync.WaitGroup
	mu     sync.RWMutex // held for reading to send, for writing to close
	closed bool
}

// kept is a copy of blocks that wait to be filled.
type kept struct {
	p        []byte
	offBytes uint64
}

var copies = sync.Pool{New: func() any { b := make([]byte, 0, 128<<10); return &b }}

func newFiller(base *blockcache.Base, stats *counters) *filler {
	f := &filler{base: base, stats: stats, queue: make(chan kept, maxQueued)}
	f.done.Go(f.run)
	return f
}

// offer copies p to be filled, if there is room in the queue.
func (f *filler) offer(p []byte, offBytes uint64) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	n := int64(len(p))
	if f.closed || f.queued.Add(n) > maxQueuedBytes {
		f.queued.Add(-n)
		f.stats.dropped.Add(uint64(n))
		return
	}
	b := copies.Get().(*[]byte)
	k := kept{append((*b)[:0], p...), offBytes}
	select {
	case f.queue <- k:
	default:
		f.queued.Add(-n)
		f.stats.dropped.Add(uint64(n))
	}
}

func (f *filler) run() {
	for k := range f.queue {
		n := f.base.Fill(k.p, k.offBytes)
		f.stats.filled.Add(uint64(n))
		f.stats.dropped.Add(uint64(len(k.p) - n))
		f.queued.Add(-int64(len(k.p)))
		copies.Put(&k.p)
	}
}

// close fills what waits and ends.
func (f *filler) close() {
	f.mu.Lock()
	f.closed = true
	close(f.queue)
	f.mu.Unlock()
	f.done.Wait()
}
