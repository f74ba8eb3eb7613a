// Package gc gives space back. It removes layers that nobody can see, merges
// those that only one child needs, drops what all children of a layer hide,
// and then frees the segments: those without life are deleted, those with
// little are emptied by moving what lives to the end of the log.
//
// Every step is small, atomic and repeatable: it may fail, be stopped or be cut
// by a crash anywhere, and the next run goes on from what is there. A step that
// fails is reported and passed over. Nothing here decides by remembered state:
// the plan is made from the extent map each time.
//
// Invariants:
//
//	G1  A segment is deleted only when the map, durably, names nothing in it and
//	    the log need not be replayed from it.
//	G2  Moving a block changes its one entry in the map, if it still names the
//	    place that is emptied; readers follow (volume.Store.Relocate).
//	G5  Before a segment goes, its zero records that still count are logged anew:
//	    what the log tells, with the catalog, is all that the map has
//	    (volume.Salvage).
//	G3  A step that fails is reported and keeps no other from being done. Only a
//	    disk without room for a segment, or the end of ctx, stops a collection.
//	G4  While clients work, the collector takes a fifth of the time at most, in
//	    small steps; less of that the less room there is (pacer). Writers that
//	    wait for room come before everything else.
package gc

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
	"github.com/slackerd/slacker/segment"
	"go.uber.org/zap"
)

// Store is what the collector works on.
type Store interface {
	Tree() *cow.Tree
	Log() *segment.Log
	// Flush makes every change so far durable in the log and in the map.
	Flush(context.Context) error
	// Relocate moves the blocks that are still where a record of the log put
	// them to the end of the log, and returns how many.
	Relocate(l *cow.Layer, first block.Index, count uint32, addr block.Addr) (uint32, error)
	// KeepZeros logs anew those of the blocks that are zero by the layer's own
	// doing, and returns with how many records.
	KeepZeros(l *cow.Layer, first block.Index, count uint32) (records int, err error)
	// ForgetSegment durably drops the counter of a segment that is dead.
	ForgetSegment(block.SegmentID) error
}

// DefaultCleanBelow is the share of live blocks below which a segment is
// emptied. At 0.75 the files take at most 1/0.75 of the data they hold, beside
// the active segment.
const DefaultCleanBelow = 0.75

// Options configure a Collector.
type Options struct {
	Logger *zap.Logger
	// CleanBelow is the share of live blocks, from 0 to 1, below which a
	// segment is emptied.
	CleanBelow float64
	// Interval is how often Run looks without being told to.
	Interval time.Duration
	// Foreground, when set, counts what clients have asked for so far: while it
	// grows the collector leaves them most of the time (G4).
	Foreground func() uint64
}

// Collector collects garbage. One collection runs at a time.
type Collector struct {
	s    Store
	o    Options
	mu   sync.Mutex
	wake chan struct{}
	// sealed: a segment has filled up, so others may have died.
	sealed chan struct{}
	// urgent is how many writers wait for room.
	urgent atomic.Int32
	news   news
}

// New returns a collector.
func New(s Store, o Options) *Collector {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.CleanBelow == 0 {
		o.CleanBelow = DefaultCleanBelow
	}
	if o.Interval == 0 {
		o.Interval = time.Minute
	}
	return &Collector{s: s, o: o, wake: make(chan struct{}, 1), sealed: make(chan struct{}, 1)}
}

// Wake tells Run that there may be something to collect. It does not wait.
func (c *Collector) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Sealed tells Run that a segment of the log has filled up. It does not wait.
func (c *Collector) Sealed() {
	select {
	case c.sealed <- struct{}{}:
	default:
	}
}

// Run collects when woken, and now and then, until ctx ends.
func (c *Collector) Run(ctx context.Context) {
	tick := time.NewTicker(c.o.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-tick.C:
		case <-c.sealed:
			if err := c.afterSeal(ctx); err != nil && ctx.Err() == nil {
				c.o.Logger.Error("deletion of dead segments stopped", zap.Error(err))
			}
			continue
		}
		freed, faults, err := c.Collect(ctx, false, nil)
		if err != nil && ctx.Err() == nil {
			c.o.Logger.Error("garbage collection stopped", zap.Error(err))
		}
		for _, f := range faults {
			c.o.Logger.Warn("garbage collection passed over an item", zap.String("fault", f))
		}
		if freed > 0 {
			c.o.Logger.Info("garbage collected", zap.Uint64("freed_bytes", freed))
		}
	}
}

// Progress reports a long run; done and total count units of the step.
type Progress func(step string, done, total uint64, unit string)

// Collect gives back all space that can be had now. It returns how many bytes
// of segment files went, and what it had to pass over. With dryRun it only
// estimates: what the segments hold beyond live data.
func (c *Collector) Collect(ctx context.Context, dryRun bool, progress func(step string, done, total uint64, unit string)) (freedBytes uint64, faults []string, err error) {
	c.mu.Lock()
	defer c.end()
	if progress == nil {
		progress = func(string, uint64, uint64, string) {}
	}
	if dryRun {
		return c.estimate(), nil, nil
	}
	r := c.begin(progress)
	before := c.s.Log().DiskBytes()
	for _, step := range []func(context.Context) error{r.layers, r.forks, r.segments, r.forwards} {
		if err := step(ctx); err != nil {
			return r.freed(before), r.faults, err
		}
	}
	return r.freed(before), r.faults, nil
}

// estimate is what a collection would free: dead blocks of sealed segments.
func (c *Collector) estimate() (bytes uint64) {
	for _, g := range c.s.Log().Segments() {
		live := c.s.Tree().Live(g.ID) * block.Size
		if !g.Active && g.Bytes > live && float64(live) < c.o.CleanBelow*float64(g.Bytes) {
			bytes += uint64(g.Bytes - live)
		}
	}
	return bytes
}

// run is one collection.
type run struct {
	*Collector
	progress Progress
	faults   []string
	pacer    pacer
	// relieving: the run is emptying segments for a writer, in between.
	relieving bool
}

// begin starts a run; c.mu is held until end.
func (c *Collector) begin(progress Progress) *run {
	return &run{Collector: c, progress: progress, pacer: pacer{c: c, last: time.Now()}}
}

// end ends a run, and lets those look who wait for room.
func (c *Collector) end() {
	c.mu.Unlock()
	c.news.tell()
}

// steps are what the upkeep of the map calls.
func (r *run) steps() cow.Steps { return cow.Steps{Flush: r.s.Flush, Pace: r.between} }

func (r *run) freed(before int64) uint64 {
	return uint64(max(0, before-r.s.Log().DiskBytes()))
}

// fault notes what a step failed at and goes on (G3), unless the whole has to stop.
func (r *run) fault(ctx context.Context, what string, err error) error {
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	if block.Is(err, block.NoSpace) {
		return err
	}
	r.faults = append(r.faults, fmt.Sprintf("%s: %v", what, err))
	return nil
}

// layers removes doomed layers and merges redundant ones, until none is left
// that has not failed.
func (r *run) layers(ctx context.Context) error {
	t := r.s.Tree()
	failed := map[block.LayerID]bool{}
	untried := func(ls []*cow.Layer) []*cow.Layer {
		return slices.DeleteFunc(ls, func(l *cow.Layer) bool { return failed[l.ID] })
	}
	for done := uint64(0); ; done++ {
		doomed, redundant := untried(t.Doomed()), untried(t.Redundant())
		total := done + uint64(len(doomed)+len(redundant))
		r.progress("layers", done, total, "layers")
		var l *cow.Layer
		var err error
		switch {
		case len(doomed) > 0:
			l = doomed[0]
			_, err = t.Remove(ctx, l, r.steps())
		case len(redundant) > 0:
			l = redundant[0]
			err = t.Merge(ctx, l, r.steps())
		default:
			return nil
		}
		if err != nil {
			failed[l.ID] = true
			if err := r.fault(ctx, fmt.Sprintf("layer %d", l.ID), err); err != nil {
				return err
			}
		}
	}
}

// forks drops what all children of unnamed layers hide.
func (r *run) forks(ctx context.Context) error {
	forks := r.s.Tree().Forks()
	for i, l := range forks {
		r.progress("shared layers", uint64(i), uint64(len(forks)), "layers")
		_, err := r.s.Tree().Sweep(ctx, l, r.steps())
		if err := r.fault(ctx, fmt.Sprintf("layer %d", l.ID), err); err != nil {
			return err
		}
	}
	return nil
}

// forwards drops the records of merged layers that no segment can name (cow's M8).
func (r *run) forwards(ctx context.Context) error {
	_, err := r.s.Tree().DropForwards(r.s.Log().Begun())
	return r.fault(ctx, "records of merged layers", err)
}
