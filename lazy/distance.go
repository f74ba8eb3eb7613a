package lazy

import (
	"sync"
	"time"
)

const (
	// A link is distant when the fastest of the first reads took this long. On
	// one that is not, fetching gains nothing over reading and takes CPU time.
	distant       = 300 * time.Microsecond
	surelyDistant = 2 * time.Millisecond // and this, when a single one did
	samples       = 4
)

// distance finds out how far the server is, by the first reads.
type distance struct {
	known chan struct{} // closed when it is; the fields below stay then
	far   bool

	mu      sync.Mutex
	count   int
	nearest time.Duration
}

func (d *distance) isKnown() bool {
	select {
	case <-d.known:
		return true
	default:
		return false
	}
}

func (d *distance) isFar() bool { return d.isKnown() && d.far }

// sample adds how long a read took.
func (d *distance) sample(took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.count == samples {
		return
	}
	if d.count == 0 || took < d.nearest {
		d.nearest = took
	}
	d.count++
	if took >= surelyDistant || d.count == samples {
		d.count = samples
		d.far = d.nearest >= distant || took >= surelyDistant
		close(d.known)
	}
}

// window is how much is fetched around what a read misses: about as much as the
// link brings while a request goes to and fro. More would hold up who reads, and
// less would cost more rounds.
type window struct {
	blocks  uint64        // a power of two
	nearest time.Duration // the shortest fetch
}

const (
	minWindowBlocks   = 16
	firstWindowBlocks = 32
	maxWindowBlocks   = 64
)

// adapt learns from how long a fetch took; a read took nearest when the link was
// looked at.
func (w *window) adapt(took, nearest time.Duration) {
	if w.nearest == 0 {
		w.nearest = nearest
	}
	w.nearest = min(w.nearest, took)
	switch {
	case took > 4*w.nearest:
		w.blocks = max(w.blocks/2, minWindowBlocks)
	case took < 2*w.nearest:
		w.blocks = min(w.blocks*2, maxWindowBlocks)
	}
}
