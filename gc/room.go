package gc

import (
	"context"
	"errors"
	"fmt"

	"github.com/slackerd/slacker/block"
	"go.uber.org/zap"
)

const (
	// cleanPressed and cleanUrgent take the place of Options.CleanBelow where room
	// is short and where a writer waits for it.
	cleanPressed = 0.92
	cleanUrgent  = 0.98
)

// MakeRoom is for a writer that the log refused for want of space. It returns
// true as soon as a segment has gone, and false when a run found none that could
// go: then the disk is full of live data, or of what is not ours. The caller
// holds nothing that a move of blocks waits for.
func (c *Collector) MakeRoom(ctx context.Context) bool {
	c.urgent.Add(1)
	defer c.urgent.Add(-1)
	c.news.hurryUp()
	was := c.s.Log().Deleted()
	for {
		news := c.news.wait()
		if c.s.Log().Deleted() != was {
			return true
		}
		if c.mu.TryLock() {
			err := c.relieve(ctx, was)
			c.end()
			gone := c.s.Log().Deleted() != was
			if !gone && err != nil && ctx.Err() == nil {
				c.o.Logger.Warn("no room could be made", zap.Error(err))
			}
			return gone
		}
		select {
		case <-news:
		case <-ctx.Done():
			return false
		}
	}
}

// relieve collects until a segment has gone.
func (c *Collector) relieve(ctx context.Context, was uint64) error {
	r := c.begin(func(string, uint64, uint64, string) {})
	gone := func() bool { return c.s.Log().Deleted() != was }
	if err := r.drop(ctx); err != nil || gone() {
		return err
	}
	if err := r.empty(ctx, cleanUrgent, gone); err != nil || gone() {
		return err
	}
	if err := errors.Join(r.layers(ctx), r.forks(ctx)); err != nil {
		return err
	}
	return r.empty(ctx, cleanUrgent, gone)
}

// afterSeal deletes what died, at once and not with the next collection: a stream
// of overwrites can then use its files again. Where room is short it empties
// segments too.
func (c *Collector) afterSeal(ctx context.Context) error {
	if err := c.drop(ctx); err != nil || !c.pressed() {
		return err
	}
	c.mu.Lock()
	defer c.end()
	r := c.begin(func(string, uint64, uint64, string) {})
	return r.empty(ctx, max(c.o.CleanBelow, cleanPressed), func() bool { return !c.pressed() })
}

// between is called between two steps of a run, with nothing locked: clients come
// first, and those that wait for room before everything else.
func (r *run) between(ctx context.Context) error {
	if r.urgent.Load() > 0 && !r.relieving {
		r.relieving = true
		was := r.s.Log().Deleted()
		err := r.empty(ctx, cleanUrgent, func() bool { return r.urgent.Load() == 0 || r.s.Log().Deleted() != was })
		r.relieving = false
		if err != nil {
			return err
		}
	}
	return r.pacer.pace(ctx)
}

// empty empties segments with a share of life below that, the one with the least
// first, until enough says so or none is left of those that there are now: what is
// moved fills others, which may be poor again at once.
func (r *run) empty(ctx context.Context, below float64, enough func() bool) error {
	tried := map[block.SegmentID]bool{}
	last, _ := r.s.Log().DurablePos()
	for n := uint64(0); !enough(); n++ {
		poor := r.poor(below)
		i := 0
		for i < len(poor) && (tried[poor[i].ID] || poor[i].ID > last.Segment) {
			i++
		}
		if i == len(poor) {
			return nil
		}
		g := poor[i]
		tried[g.ID] = true
		r.progress("segments", n, n+uint64(len(poor)-i), "segments")
		err := errors.Join(r.clean(ctx, g.ID), r.drop(ctx))
		if err := r.fault(ctx, fmt.Sprintf("segment %d", g.ID), err); err != nil {
			return err
		}
	}
	return nil
}
