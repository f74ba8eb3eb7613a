package gc

import (
	"context"
	"sync"
	"time"
)

const (
	// restShare is how long the collector rests after a step while clients
	// work, in times of what the step took.
	restShare = 4
	// maxRest bounds one rest.
	maxRest = 250 * time.Millisecond
	// pressedShare is the part of the disk, as its inverse, and pressedSegments
	// how many segments, of which must be room: with less the collector does not
	// wait for its interval.
	pressedShare    = 20
	pressedSegments = 2
)

// pacer makes room for clients between the steps of a run.
type pacer struct {
	c    *Collector
	last time.Time // when the step began
	seen uint64    // of Foreground
}

// pace waits for some times what the last step took, if clients asked for
// anything meanwhile. The less room there is the less it waits.
func (p *pacer) pace(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if rest := p.rest(time.Since(p.last)); rest > 0 {
		t := time.NewTimer(rest)
		defer t.Stop()
		select {
		case <-t.C:
		case <-p.c.news.urgent():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p.last = time.Now()
	return nil
}

// rest says how long to rest after a step that took that long.
func (p *pacer) rest(took time.Duration) time.Duration {
	if p.c.o.Foreground == nil {
		return 0
	}
	n := p.c.o.Foreground()
	busy := n != p.seen
	if p.seen = n; !busy {
		return 0
	}
	return min(time.Duration(float64(took)*restShare*p.c.ease()), maxRest)
}

// ease is 1 where there is plenty of room, 0 where there is none or a writer
// waits for it.
func (c *Collector) ease() float64 {
	if c.urgent.Load() > 0 {
		return 0
	}
	room, low, ok := c.room()
	if !ok {
		return 1
	}
	return max(0, min(1, float64(room)/float64(low)))
}

// room returns what may still become segments, and below what the collector is
// pressed.
func (c *Collector) room() (room, low int64, ok bool) {
	room, capacity, ok := c.s.Log().Room()
	if !ok {
		return 0, 0, false
	}
	return room, max(capacity/pressedShare, pressedSegments*c.s.Log().SegmentBytes()), true
}

// pressed says whether room is short enough to empty segments at once.
func (c *Collector) pressed() bool {
	room, low, ok := c.room()
	return ok && room < low
}

// news tells those who wait for room that a segment went or a run ended, and the
// pacer that somebody waits.
type news struct {
	mu     sync.Mutex
	came   chan struct{}
	hurry  chan struct{}
	hurred bool
}

func (n *news) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.came == nil {
		n.came = make(chan struct{})
	}
	return n.came
}

func (n *news) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.came != nil {
		close(n.came)
		n.came = nil
	}
}

// urgent is closed while somebody waits.
func (n *news) urgent() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hurry == nil || n.hurred {
		n.hurry, n.hurred = make(chan struct{}), false
	}
	return n.hurry
}

func (n *news) hurryUp() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hurry != nil && !n.hurred {
		close(n.hurry)
		n.hurred = true
	}
}
