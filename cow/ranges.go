package cow

import (
	"sync"

	"github.com/slackerd/slacker/block"
)

// rangeLock is an exclusive lock over ranges of blocks, first come first
// served among those that overlap. The place in the order is taken when lock
// is called, so a write that waits is never overtaken by a later one to the
// same block.
type rangeLock struct {
	mu    sync.Mutex
	queue []*rangeHold // in order of arrival
}

type rangeHold struct {
	first, end block.Index
	blockers   int           // earlier holds that overlap and are not released
	granted    chan struct{} // made only to wait
}

var rangeHolds = sync.Pool{New: func() any { return new(rangeHold) }}

// lock waits until no earlier hold overlaps [first, end).
func (l *rangeLock) lock(first, end block.Index) *rangeHold {
	h := rangeHolds.Get().(*rangeHold)
	*h = rangeHold{first: first, end: end}
	l.mu.Lock()
	for _, e := range l.queue {
		if e.first < end && first < e.end {
			h.blockers++
		}
	}
	l.queue = append(l.queue, h)
	if h.blockers == 0 {
		l.mu.Unlock()
		return h
	}
	h.granted = make(chan struct{})
	l.mu.Unlock()
	<-h.granted
	return h
}

func (l *rangeLock) unlock(h *rangeHold) {
	l.mu.Lock()
	at := -1
	for i, e := range l.queue {
		switch {
		case e == h:
			at = i
		case at >= 0 && e.first < h.end && h.first < e.end:
			if e.blockers--; e.blockers == 0 {
				close(e.granted)
			}
		}
	}
	last := len(l.queue) - 1
	copy(l.queue[at:], l.queue[at+1:])
	l.queue[last] = nil
	l.queue = l.queue[:last]
	l.mu.Unlock()
	rangeHolds.Put(h)
}
