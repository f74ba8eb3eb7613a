package gc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
	"github.com/slackerd/slacker/segment"
)

const (
	// relocateBlocks is how much one step moves: clients wait for its range lock.
	relocateBlocks = 32
	// namedFaults is how many faults of a segment are told in full.
	namedFaults = 8
)

// segments deletes the dead segments and empties those with little life.
func (r *run) segments(ctx context.Context) error {
	if err := r.drop(ctx); err != nil {
		return err
	}
	return r.empty(ctx, r.o.CleanBelow, func() bool { return false })
}

// poor lists the sealed segments with a share of life below that, the one with
// the least first.
func (r *run) poor(below float64) (poor []segment.Info) {
	live := map[block.SegmentID]int64{}
	for _, g := range r.s.Log().Segments() {
		live[g.ID] = r.s.Tree().Live(g.ID) + int64(r.s.Log().KnownZeros(g.ID)/segment.ZerosPerBlock)
		if !g.Active && float64(live[g.ID]) < below*float64(g.Bytes/block.Size) {
			poor = append(poor, g)
		}
	}
	slices.SortFunc(poor, func(a, b segment.Info) int {
		return cmp.Or(cmp.Compare(live[a.ID], live[b.ID]), cmp.Compare(a.ID, b.ID))
	})
	return poor
}

// faults gathers what a step passes over.
type faults struct {
	named []error
	more  int
}

func (f *faults) add(err error) {
	if len(f.named) < namedFaults {
		f.named = append(f.named, err)
	} else {
		f.more++
	}
}

func (f *faults) join() error {
	if f.more > 0 {
		return errors.Join(append(f.named, fmt.Errorf("and %d more", f.more))...)
	}
	return errors.Join(f.named...)
}

// stops says whether a collection cannot go on after an error.
func stops(ctx context.Context, err error) bool {
	return ctx.Err() != nil || block.Is(err, block.NoSpace)
}

// clean moves what lives in a segment to the end of the log. What cannot be
// moved stays, is an error, and does not keep the rest.
func (r *run) clean(ctx context.Context, id block.SegmentID) error {
	var bad faults
	err := r.s.Log().Scan(ctx, id, func(rec segment.Record) error {
		l := r.s.Tree().Layer(rec.Layer)
		if l == nil || rec.Kind == segment.Zero {
			return nil // zeros: see drop
		}
		return r.move(ctx, l, rec.First, rec.Count, rec.Addr, &bad)
	})
	if errors.Is(err, segment.ErrGone) {
		return bad.join() // it died, and went with the one before
	}
	if err == nil || stops(ctx, err) {
		return errors.Join(bad.join(), err)
	}
	// What follows damage in the segment cannot be found from it, but from the map.
	bad.add(err)
	return errors.Join(r.search(ctx, id, &bad), bad.join())
}

// move relocates in small steps. It returns an error only when the whole has to
// stop.
func (r *run) move(ctx context.Context, l *cow.Layer, first block.Index, count uint32, addr block.Addr, bad *faults) error {
	for count > 0 {
		n := min(count, relocateBlocks)
		if _, err := r.s.Relocate(l, first, n, addr); err != nil { // G2
			if stops(ctx, err) {
				return err
			}
			bad.add(err)
		}
		first, count, addr = first+block.Index(n), count-n, addr+block.Addr(n)
		if err := r.pacer.pace(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// search moves what lives in a segment, found by looking through the whole map.
func (r *run) search(ctx context.Context, id block.SegmentID, bad *faults) error {
	type place struct {
		first block.Index
		addr  block.Addr
	}
	for _, l := range r.s.Tree().Layers() {
		var found []place
		err := r.s.Tree().Entries(ctx, l, func(i block.Index, e cow.Entry) error {
			if e.Addr.Segment() == id {
				found = append(found, place{i, e.Addr})
			}
			return nil
		}, func(uint32, error) error { return nil })
		if err != nil && stops(ctx, err) {
			return err
		}
		if err != nil {
			bad.add(err)
		}
		for _, p := range found {
			if err := r.move(ctx, l, p.first, 1, p.addr, bad); err != nil {
				return err
			}
		}
	}
	return nil
}

// drop deletes the segments that nothing needs, if there seem to be some.
func (c *Collector) drop(ctx context.Context) error {
	c.mu.Lock()
	defer c.end()
	for _, g := range c.s.Log().Segments() {
		if !g.Active && c.s.Tree().Live(g.ID) == 0 {
			return c.begin(nil).drop(ctx)
		}
	}
	return nil
}

// drop deletes the segments that nothing needs (G1). What is counted in memory
// may be ahead of what is durable, so the order matters: after the first flush
// no entry is on its way any more that names a segment which was full before
// it; one without life stays so, and after the second flush the map knows it
// and is replayed from a later place.
func (r *run) drop(ctx context.Context) error {
	pos, _ := r.s.Log().DurablePos()
	sealed := r.s.Log().Segments()
	if err := r.s.Flush(ctx); err != nil {
		return err
	}
	dead := slices.DeleteFunc(sealed, func(g segment.Info) bool {
		return g.Active || g.ID >= pos.Segment || r.s.Tree().Live(g.ID) != 0
	})
	dead, err := r.keepZeros(ctx, dead)
	if err != nil || len(dead) == 0 {
		return err
	}
	if err := r.s.Flush(ctx); err != nil {
		return err
	}
	for _, g := range dead {
		if err := r.s.ForgetSegment(g.ID); err != nil {
			return err
		}
		if err := r.s.Log().Delete(g.ID); err != nil {
			return err
		}
		r.news.tell()
	}
	return nil
}

// zerosShare is the part of a segment, as its inverse, that zero records may take
// of one that has no other life and is to be deleted: else they would be copied
// for ever.
const zerosShare = 2

// keepZeros logs the zeros of dead segments anew (G5), and returns those that may
// go. A segment that cannot be read says nothing any more.
func (r *run) keepZeros(ctx context.Context, dead []segment.Info) (gone []segment.Info, err error) {
	for _, g := range dead {
		n, err := r.s.Log().Zeros(ctx, g.ID)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil && n/segment.ZerosPerBlock > uint64(g.Bytes/block.Size/zerosShare) {
			continue
		}
		if n > 0 {
			err = r.s.Log().Scan(ctx, g.ID, func(rec segment.Record) error {
				l := r.s.Tree().Layer(rec.Layer)
				if l == nil || rec.Kind != segment.Zero {
					return nil
				}
				_, err := r.s.KeepZeros(l, rec.First, rec.Count)
				if u := r.s.Tree().MergesInto(l); err == nil && u != nil {
					_, err = r.s.KeepZeros(u, rec.First, rec.Count)
				}
				return err
			})
			if err != nil && (stops(ctx, err) || !block.Is(err, block.Corrupt)) {
				return nil, err
			}
		}
		gone = append(gone, g)
	}
	return gone, nil
}
