package lazy

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/boottrace"
	"github.com/slackerd/slacker/nbdclient"
)

const (
	// A fetch is of batchBlocks at most, and fetchers are under way at once: little
	// enough that a read which is not among them does not wait long behind them on
	// a slow link, and enough to keep it busy.
	batchBlocks = 64
	batchRuns   = 256
	fetchers    = 2
	// A link is distant when the fastest of the first reads took this long. On
	// one that is not, reading ahead gains nothing and takes CPU time.
	distant       = 300 * time.Microsecond
	surelyDistant = 2 * time.Millisecond // and this, when a single one did
	samples       = 4
)

// prefetch fetches the blocks of a trace that are not in the cache.
type prefetch struct {
	v     *Volume
	fetch func(ctx context.Context, runs []boottrace.Run, p []byte) error

	mu    sync.Mutex
	queue []boottrace.Run
	// flying are the blocks that are being fetched, each with the reads that wait.
	flying map[uint64][]*waiter
}

// waiter is a read that waits for blocks that are being fetched.
type waiter struct {
	r    *nbdclient.Request
	left int
}

// run fetches everything, once the link has shown to be a distant one.
func (f *prefetch) run(ctx context.Context) {
	select {
	case <-f.v.distance.known:
		if !f.v.distance.far {
			return
		}
	case <-ctx.Done():
		return
	}
	var all sync.WaitGroup
	for range fetchers {
		all.Go(func() {
			buf := make([]byte, batchBlocks*block.Size)
			for ctx.Err() == nil {
				runs := f.next()
				if len(runs) == 0 || !f.get(ctx, runs, buf) {
					return
				}
			}
		})
	}
	all.Wait()
}

// next takes the next batch from the queue, without what is there or was written,
// and marks it as flying.
func (f *prefetch) next() (batch []boottrace.Run) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := uint64(0)
	for len(f.queue) > 0 && n < batchBlocks && len(batch) < batchRuns {
		q := &f.queue[0]
		count := min(q.Count, batchBlocks-n)
		for _, r := range f.wanted(boottrace.Run{First: q.First, Count: count}) {
			batch, n = append(batch, r), n+r.Count
			for i := r.First; i < r.First+r.Count; i++ {
				f.flying[i] = nil
			}
		}
		if q.First, q.Count = q.First+count, q.Count-count; q.Count == 0 {
			f.queue = f.queue[1:]
		}
	}
	return batch
}

// wanted returns the parts of a run that are clean, not flying, and not there.
func (f *prefetch) wanted(r boottrace.Run) (parts []boottrace.Run) {
	for i := r.First; i < r.First+r.Count; i++ {
		if _, flies := f.flying[i]; flies || !f.v.clean.clean(i) || f.v.base.Has(i*block.Size) {
			continue
		}
		if k := len(parts) - 1; k >= 0 && parts[k].First+parts[k].Count == i {
			parts[k].Count++
		} else {
			parts = append(parts, boottrace.Run{First: i, Count: 1})
		}
	}
	return parts
}

// get fetches a batch, keeps it, and lets go who waits for it. It reports whether
// to go on.
func (f *prefetch) get(ctx context.Context, runs []boottrace.Run, buf []byte) bool {
	n := uint64(0)
	for _, r := range runs {
		n += r.Count
	}
	buf = buf[:n*block.Size]
	err := f.fetch(ctx, runs, buf)
	if err == nil {
		at := uint64(0)
		for _, r := range runs {
			// The bytes are the snapshot's, whatever the volume has written meanwhile.
			kept := f.v.base.Fill(buf[at:at+r.Count*block.Size], r.First*block.Size)
			f.v.stats.prefetched.Add(uint64(kept))
			at += r.Count * block.Size
		}
	} else if ctx.Err() == nil {
		f.v.log.Warn("reading ahead has ended", zap.Error(err))
	}
	for _, w := range f.land(runs) {
		f.v.later(w.r)
	}
	return err == nil
}

// land takes blocks out of what flies and returns the reads that need not wait
// any more.
func (f *prefetch) land(runs []boottrace.Run) (ready []*waiter) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range runs {
		for i := r.First; i < r.First+r.Count; i++ {
			for _, w := range f.flying[i] {
				if w.left--; w.left == 0 {
					ready = append(ready, w)
				}
			}
			delete(f.flying, i)
		}
	}
	return ready
}

// await lets a read of blocks [first, end) wait if some of them are flying.
func (f *prefetch) await(r *nbdclient.Request, first, end uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.flying) == 0 {
		return false
	}
	w := &waiter{r: r}
	for i := first; i < end; i++ {
		if ws, flies := f.flying[i]; flies {
			f.flying[i] = append(ws, w)
			w.left++
		}
	}
	return w.left > 0
}

// distance finds out how far the server is, by the first reads.
type distance struct {
	known chan struct{} // closed when it is
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
