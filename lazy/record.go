package lazy

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/boottrace"
)

const (
	// recordSeconds is how many seconds with new reads are a start. Those without
	// do not count: a volume may be attached long before its container starts.
	recordSeconds = 10
	maxRecordRuns = 8 << 10
)

// recorder notes which clean blocks are read, in the order of their first
// reading, while a start lasts.
type recorder struct {
	over atomic.Bool

	mu      sync.Mutex
	seen    *cleanMap // what was read is marked
	runs    []boottrace.Run
	blocks  uint64
	seconds int
	last    int64 // the second of the last new reading
}

func newRecorder(baseBytes uint64) *recorder {
	r := &recorder{seen: newCleanMap(baseBytes)}
	r.seen.tell(r.seen.blocks)
	return r
}

// note notes that blocks [first, end) were read.
func (r *recorder) note(first, end uint64) {
	if r.over.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for at := first; at < end; {
		stop, fresh := r.seen.run(at, end)
		if fresh && !r.add(at, stop-at) {
			r.over.Store(true)
			return
		}
		at = stop
	}
}

// add adds a run, or reports that the start is over.
func (r *recorder) add(first, count uint64) bool {
	if now := time.Now().Unix(); now != r.last {
		r.last = now
		r.seconds++
	}
	if r.seconds > recordSeconds || r.blocks+count > boottrace.MaxBlocks {
		return false
	}
	r.seen.mark(first, first+count)
	r.blocks += count
	if n := len(r.runs); n > 0 && r.runs[n-1].First+r.runs[n-1].Count == first {
		r.runs[n-1].Count += count
		return true
	}
	r.runs = append(r.runs, boottrace.Run{First: first, Count: count})
	return len(r.runs) < maxRecordRuns
}

// news returns what was recorded, if that is worth telling to who has the trace
// old: a tenth of it is new. A start that read less than the old one does not
// take its place.
func (r *recorder) news(old []boottrace.Run) []boottrace.Run {
	known := blocksOf(old, r.seen.blocks)
	r.mu.Lock()
	defer r.mu.Unlock()
	fresh := uint64(0)
	for _, n := range r.runs {
		for at := n.First; at < n.First+n.Count; {
			stop, unknown := known.run(at, n.First+n.Count)
			if unknown {
				fresh += stop - at
			}
			at = stop
		}
	}
	if fresh*10 <= r.blocks {
		return nil
	}
	return append([]boottrace.Run(nil), r.runs...)
}

// blocksOf marks the blocks of a trace.
func blocksOf(trace []boottrace.Run, nBlocks uint64) *cleanMap {
	m := newCleanMap(nBlocks * block.Size)
	m.tell(m.blocks)
	for _, r := range trace {
		m.mark(r.First, r.First+r.Count)
	}
	return m
}
