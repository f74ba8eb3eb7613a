package lazy

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/boottrace"
	"github.com/slackerd/slacker/nbdclient"
)

const (
	// A fetch of the trace is of batchBlocks at most, and fetchers are under way at
	// once: little enough that a read which is not among them does not wait long
	// behind them on a slow link, and enough to keep it busy.
	batchBlocks = 64
	batchRuns   = 256
	fetchers    = 2
	// leadInterval is how often one looks whether another still follows the trace.
	leadInterval = 50 * time.Millisecond
	// maxLooked bounds the blocks that are looked at while reads wait.
	maxLooked = 1024
	// smallBlocks are so few that they are fetched together with what is around them.
	smallBlocks = 4
	// maxFetchBlocks bounds any fetch, and maxDemands those for reads at once: what
	// is more is read plainly.
	maxFetchBlocks = 256
	maxDemands     = 16
	// demandPatience is how long a read waits for its fetch before it is read
	// plainly; after a failure nothing is fetched for reads for a while, from minPause
	// to maxPause.
	demandPatience = 5 * time.Second
	minPause       = time.Second
	maxPause       = time.Minute
)

// fetcher fetches blocks of the base, compressed: what a read misses, with what
// lies around it, and the blocks of a trace.
type fetcher struct {
	v     *Volume
	fetch func(ctx context.Context, runs []boottrace.Run, p []byte) error
	ctx   context.Context
	// foreseen are the blocks of the trace, marked; nil: there is none.
	foreseen *cleanMap

	mu    sync.Mutex
	queue []boottrace.Run
	// flying are the blocks that are being fetched.
	flying  map[uint64]*flight
	demands int // flights for reads
	window  window
	pause   time.Duration // after the last failure
	again   time.Time     // nothing is fetched for reads before
}

// flight is blocks that are being fetched.
type flight struct {
	runs []boottrace.Run // in order
	// data is what came, while it is on its way into the cache.
	data    []byte
	waiters []*waiter
}

// waiter is a read that waits for flights.
type waiter struct {
	r *nbdclient.Request
	// first and end are the blocks of it that were missing, asked those that are
	// fetched for it.
	first, end, asked uint64
	flights           int
	short             bool // some of them do not come
}

func newFetcher(ctx context.Context, v *Volume, o Options) *fetcher {
	f := &fetcher{v: v, fetch: o.Fetch, ctx: ctx, queue: slices.Clone(o.Trace), flying: map[uint64]*flight{}, window: window{blocks: firstWindowBlocks}}
	if len(o.Trace) > 0 {
		f.foreseen = blocksOf(o.Trace, v.clean.blocks)
	}
	return f
}

// take takes over a read of which blocks [first, end) are missing, if they are
// being fetched or can be now. It reports whether it has.
func (f *fetcher) take(r *nbdclient.Request, first, end uint64) bool {
	f.mu.Lock()
	w := &waiter{r: r, first: first, end: end}
	may := end-first <= maxFetchBlocks && f.mayDemand()
	own, around := &flight{}, &flight{}
	for i := first; i < end; i++ {
		switch fl := f.flying[i]; {
		case fl == nil && may:
			own.add(i)
			f.flying[i] = own
			w.asked++
		case fl == nil:
			w.short = true
		case fl.data != nil:
			fl.give(w, i, i+1)
		default:
			fl.join(w)
		}
	}
	if w.asked > 0 {
		own.join(w)
		f.around(own, around)
		f.demands++
		if len(around.runs) > 0 {
			f.demands++
		}
	}
	waits := w.flights > 0 // else nobody else has w
	f.mu.Unlock()
	switch {
	case w.asked > 0:
		f.demand(own, w.asked)
		f.demand(around, 0)
	case !waits && w.short:
		return false
	case !waits:
		f.v.finish(w)
	}
	return true
}

// mayDemand reports whether something may be fetched for a read now.
func (f *fetcher) mayDemand() bool {
	return f.v.distance.isFar() && f.demands+2 <= maxDemands && !time.Now().Before(f.again)
}

// demand fetches a flight of which asked blocks are for a read, in the background.
func (f *fetcher) demand(fl *flight, asked uint64) {
	if len(fl.runs) == 0 {
		return
	}
	f.v.background(func() {
		ctx, cancel := context.WithTimeout(f.ctx, demandPatience)
		defer cancel()
		begun := time.Now()
		err := f.carry(ctx, fl, make([]byte, fl.blocks()*block.Size), asked)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.demands--
		if err == nil {
			f.window.adapt(time.Since(begun), f.v.distance.nearest)
		}
	}, func() { f.abandon(fl) })
}

// around adds to a flight the blocks around it up to multiples of the window; where
// they would hold up a large one they get another. With a trace that has foreseen the
// read only such as it has are taken.
func (f *fetcher) around(own, other *flight) {
	first, end := own.runs[0].First, own.runs[len(own.runs)-1].First+own.runs[len(own.runs)-1].Count
	size := f.window.blocks
	begin, stop := first/size*size, min((end+size-1)/size*size, f.v.clean.blocks)
	foreseen := f.isForeseen(first)
	room, to := maxFetchBlocks-own.blocks(), other
	if own.blocks() <= smallBlocks {
		own.runs, to = nil, own
	}
	for i := begin; i < stop; i++ {
		switch {
		case f.flying[i] == to:
			to.add(i)
		case room > 0 && f.wants(i, true) && (!foreseen || f.isForeseen(i)):
			to.add(i)
			f.flying[i] = to
			room--
		}
	}
}

func (f *fetcher) isForeseen(i uint64) bool { return f.foreseen != nil && !f.foreseen.clean(i) }

// wants reports whether a block is worth to be fetched: clean, not flying, and not
// there.
func (f *fetcher) wants(i uint64, nowait bool) bool {
	return f.flying[i] == nil && f.v.clean.clean(i) && !f.v.base.Has(i*block.Size, nowait)
}

// followTrace fetches the blocks of the trace, once the link has shown to be a
// distant one, and nobody else of this worker does (Z6).
func (f *fetcher) followTrace() {
	select {
	case <-f.v.distance.known:
		if !f.v.distance.far {
			return
		}
	case <-f.ctx.Done():
		return
	}
	// Another process of this worker may be at it, for another clone of the base.
	for len(f.queue) > 0 && !f.v.base.Lead() {
		select {
		case <-time.After(leadInterval):
		case <-f.ctx.Done():
			return
		}
	}
	defer f.v.base.Follow()
	var all sync.WaitGroup
	for range fetchers {
		all.Go(func() {
			buf := make([]byte, batchBlocks*block.Size)
			for f.ctx.Err() == nil {
				fl, more := f.next()
				if !more {
					return
				}
				if len(fl.runs) == 0 {
					continue
				}
				if err := f.carry(f.ctx, fl, buf[:fl.blocks()*block.Size], 0); err != nil {
					if f.ctx.Err() == nil {
						f.v.log.Warn("reading ahead has ended", zap.Error(err))
					}
					return
				}
			}
		})
	}
	all.Wait()
}

// next takes the next batch from the trace, without what is there or was written,
// until there is no more.
func (f *fetcher) next() (fl *flight, more bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl, more = &flight{}, len(f.queue) > 0
	for n, looked := 0, 0; len(f.queue) > 0 && n < batchBlocks && len(fl.runs) < batchRuns && looked < maxLooked; looked++ {
		q := &f.queue[0]
		if f.wants(q.First, false) {
			fl.add(q.First)
			f.flying[q.First] = fl
			n++
		}
		if q.First, q.Count = q.First+1, q.Count-1; q.Count == 0 {
			f.queue = f.queue[1:]
		}
	}
	return fl, more
}

// carry fetches a flight, answers who waits for it, and keeps it; asked blocks of
// it were read, the others are ahead.
func (f *fetcher) carry(ctx context.Context, fl *flight, buf []byte, asked uint64) error {
	if err := f.fetch(ctx, fl.runs, buf); err != nil {
		f.mu.Lock()
		f.pause = min(max(2*f.pause, minPause), maxPause)
		f.again = time.Now().Add(f.pause)
		f.mu.Unlock()
		f.abandon(fl)
		return err
	}
	f.mu.Lock()
	f.pause = 0
	fl.data = buf
	ready := fl.land(func(w *waiter) { fl.give(w, w.first, w.end) })
	f.mu.Unlock()
	for _, w := range ready {
		f.v.finish(w)
	}
	kept := 0
	at := uint64(0)
	for _, r := range fl.runs {
		// The bytes are the snapshot's, whatever the volume has written meanwhile.
		kept += f.v.base.Fill(buf[at:at+r.Count*block.Size], r.First*block.Size)
		at += r.Count * block.Size
	}
	f.v.stats.filled.Add(min(uint64(kept), asked*block.Size))
	f.v.stats.prefetched.Add(uint64(kept) - min(uint64(kept), asked*block.Size))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget(fl)
	return nil
}

// abandon lets go who waits for a flight that does not come.
func (f *fetcher) abandon(fl *flight) {
	f.mu.Lock()
	f.forget(fl)
	ready := fl.land(func(w *waiter) { w.short = true })
	f.mu.Unlock()
	for _, w := range ready {
		f.v.finish(w)
	}
}

func (f *fetcher) forget(fl *flight) {
	for _, r := range fl.runs {
		for i := r.First; i < r.First+r.Count; i++ {
			delete(f.flying, i)
		}
	}
}

// add adds a block after the others.
func (fl *flight) add(i uint64) {
	if n := len(fl.runs); n > 0 && fl.runs[n-1].First+fl.runs[n-1].Count == i {
		fl.runs[n-1].Count++
		return
	}
	fl.runs = append(fl.runs, boottrace.Run{First: i, Count: 1})
}

func (fl *flight) blocks() (n uint64) {
	for _, r := range fl.runs {
		n += r.Count
	}
	return n
}

// join lets a read wait for the flight, once.
func (fl *flight) join(w *waiter) {
	if n := len(fl.waiters); n == 0 || fl.waiters[n-1] != w {
		fl.waiters = append(fl.waiters, w)
		w.flights++
	}
}

// give copies to a read what it misses of the blocks [first, end), as far as the
// flight has them.
func (fl *flight) give(w *waiter, first, end uint64) {
	at := uint64(0)
	begin := w.r.OffBytes / block.Size
	for _, r := range fl.runs {
		from, to := max(r.First, first), min(r.First+r.Count, end)
		if from < to {
			copy(w.r.Data[(from-begin)*block.Size:(to-begin)*block.Size], fl.data[(at+from-r.First)*block.Size:])
		}
		at += r.Count
	}
}

// land tells all who wait, and returns those that wait for nothing else.
func (fl *flight) land(tell func(*waiter)) (ready []*waiter) {
	for _, w := range fl.waiters {
		tell(w)
		if w.flights--; w.flights == 0 {
			ready = append(ready, w)
		}
	}
	fl.waiters = nil
	return ready
}
