package lazy

import (
	"context"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/blockcache"
	"github.com/slackerd/slacker/boottrace"
	"github.com/slackerd/slacker/nbdclient"
)

// Options of a Volume.
type Options struct {
	// Base is the base of the volume; the Volume closes it.
	Base *blockcache.Base
	// Clean: nothing was written since the base. Otherwise Dirty is asked.
	Clean bool
	// Dirty says which whole blocks were written since, from an offset on: runs
	// of offset and length in bytes, and the end of what the answer is about.
	Dirty func(ctx context.Context, offBytes uint64) (runs []uint64, endBytes uint64, err error)
	// Trace is what to read ahead, in this order, and Fetch reads blocks of the
	// base, compressed on their way; nil: all is read from the session.
	Trace []boottrace.Run
	Fetch func(ctx context.Context, runs []boottrace.Run, p []byte) error
	Log   *zap.Logger
}

// Volume is the export of a session with a cache of its base before it. The
// session stays its maker's, who closes it before the Volume.
type Volume struct {
	session *nbdclient.Session
	base    *blockcache.Base
	clean   *cleanMap
	filler  *filler
	log     *zap.Logger
	stats   counters

	trace    []boottrace.Run
	recorder *recorder
	fetcher  *fetcher // or nil
	distance distance

	reads   sync.Pool  // of *read
	closing sync.Mutex // guards closed, and running from growing then
	closed  bool
	running sync.WaitGroup
	stop    context.CancelFunc
}

// New puts the cache before a session. If the volume is not known to be clean the
// server is asked in the background.
func New(session *nbdclient.Session, o Options) (*Volume, error) {
	if o.Base == nil || o.Log == nil || (!o.Clean && o.Dirty == nil) {
		return nil, block.Errorf(block.Internal, "lazy volume: no base, no log, or nobody to ask what is clean")
	}
	v := &Volume{session: session, base: o.Base, log: o.Log}
	v.clean = newCleanMap(min(session.Info().SizeBytes, o.Base.SizeBytes()))
	v.filler = newFiller(o.Base, &v.stats)
	v.reads.New = func() any {
		r := &read{volume: v}
		r.inner.Done = r.done
		return r
	}
	v.trace, v.recorder, v.distance.known = o.Trace, newRecorder(v.clean.blocks*block.Size), make(chan struct{})
	ctx, stop := context.WithCancel(context.Background())
	v.stop = stop
	if o.Fetch != nil {
		v.fetcher = newFetcher(ctx, v, o)
		v.running.Go(v.fetcher.followTrace)
	}
	if o.Clean {
		v.clean.tell(v.clean.blocks)
	} else {
		v.running.Go(func() { v.learn(ctx, o.Dirty) })
	}
	return v, nil
}

// learn asks the server what is clean. What it does not learn stays dirty.
func (v *Volume) learn(ctx context.Context, ask func(context.Context, uint64) ([]uint64, uint64, error)) {
	size := v.clean.blocks * block.Size
	for at := uint64(0); at < size; {
		runs, end, err := ask(ctx, at)
		if err == nil && (end <= at || end%block.Size != 0 && end < size || len(runs)%2 != 0) {
			err = block.Errorf(block.Invalid, "dirty blocks from %d: the answer ends at %d with %d numbers", at, end, len(runs))
		}
		if err != nil {
			if ctx.Err() == nil {
				v.log.Warn("it is not known what of the volume is clean: the rest is not read from the cache", zap.Uint64("from", at), zap.Error(err))
			}
			return
		}
		for i := 0; i < len(runs); i += 2 {
			v.touch(runs[i], runs[i+1])
		}
		v.clean.tell(end / block.Size)
		at = end
	}
}

// touch marks a range of bytes as dirty (Z1).
func (v *Volume) touch(offBytes, lengthBytes uint64) {
	if lengthBytes == 0 {
		return
	}
	last := offBytes + lengthBytes - 1
	if last < offBytes {
		last = ^uint64(0) - 1
	}
	v.clean.mark(offBytes/block.Size, last/block.Size+1)
}

// Info is that of the session.
func (v *Volume) Info() nbdclient.Info { return v.session.Info() }

// WriteZeroes is that of the session.
func (v *Volume) WriteZeroes(ctx context.Context, offBytes, lengthBytes uint64, noHole, fua bool) error {
	v.touch(offBytes, lengthBytes)
	return v.session.WriteZeroes(ctx, offBytes, lengthBytes, noHole, fua)
}

// Close waits for what is being filled and closes the base. The session is closed
// already, or has ended.
func (v *Volume) Close() error {
	v.stop()
	v.closing.Lock()
	v.closed = true
	v.closing.Unlock()
	v.running.Wait()
	v.filler.close()
	return v.base.Close()
}

// News returns what was read while the volume was started, if whoever has given
// the trace would do well to know.
func (v *Volume) News() []boottrace.Run { return v.recorder.news(v.trace) }

// Started reports that the start is over: News says the same from now on.
func (v *Volume) Started() bool { return v.recorder.over.Load() }

// Stats are counts of bytes since the volume was made.
type Stats struct {
	// HitBytes were answered from the cache, MissBytes came from the server though
	// they were clean, PassedBytes because they were not.
	HitBytes    uint64 `json:"hit_bytes"`
	MissBytes   uint64 `json:"miss_bytes"`
	PassedBytes uint64 `json:"passed_bytes"`
	// FilledBytes were kept, DroppedBytes not, since the disk was too slow or full.
	FilledBytes  uint64 `json:"filled_bytes"`
	DroppedBytes uint64 `json:"dropped_bytes"`
	// PrefetchedBytes were kept before they were read.
	PrefetchedBytes uint64 `json:"prefetched_bytes"`
}

type counters struct{ hit, miss, passed, filled, dropped, prefetched atomic.Uint64 }

// Stats returns what was counted so far.
func (v *Volume) Stats() Stats {
	c := &v.stats
	return Stats{HitBytes: c.hit.Load(), MissBytes: c.miss.Load(), PassedBytes: c.passed.Load(), FilledBytes: c.filled.Load(), DroppedBytes: c.dropped.Load(),
		PrefetchedBytes: c.prefetched.Load()}
}
