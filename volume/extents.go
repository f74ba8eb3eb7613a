package volume

import (
	"context"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
)

// extents gathers runs of one allocation state, at most so many.
type extents struct {
	runs []Extent
	base int // runs that were there before
	max  int
}

// add appends bytes, and reports whether there was room for them.
func (x *extents) add(lengthBytes uint64, hole bool) bool {
	if m := len(x.runs); m > x.base && x.runs[m-1].Hole == hole {
		x.runs[m-1].LengthBytes += lengthBytes
	} else if m-x.base == x.max {
		return false
	} else {
		x.runs = append(x.runs, Extent{LengthBytes: lengthBytes, Hole: hole, Zero: hole})
	}
	return true
}

// afterHole reports whether the next bytes follow on a hole, or on nothing.
func (x *extents) afterHole() bool { return len(x.runs) == x.base || x.runs[len(x.runs)-1].Hole }

// Extents appends the allocation of the range, at most maxExtents runs.
func (d *Device) Extents(ctx context.Context, dst []Extent, offBytes, lengthBytes uint64, maxExtents int) ([]Extent, error) {
	l, err := d.enter()
	if err != nil {
		return nil, err
	}
	defer d.leave()
	x := extents{runs: dst, base: len(dst), max: maxExtents}
	es := entries(cow.PageBlocks)
	defer entryPool.Put(es)
	for at, end := offBytes, offBytes+lengthBytes; at < end; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if end-at >= skipBytes && x.afterHole() {
			n, err := d.s.empty(ctx, l, spanOf(at, end-at), at, end-at)
			if err != nil {
				return nil, err
			}
			if n > 0 {
				if at += n; !x.add(n, true) {
					return x.runs, nil
				}
				continue
			}
		}
		sp := spanOf(at, end-at)
		n := min(cow.PageBlocks-uint64(sp.first)%cow.PageBlocks, sp.count)
		if err := d.s.tree.Lookup(l, sp.first, (*es)[:n]); err != nil {
			return nil, err
		}
		for k := range n {
			stop := min(end, (uint64(sp.first)+k+1)*block.Size)
			if !x.add(stop-at, !(*es)[k].IsData()) {
				return x.runs, nil
			}
			at = stop
		}
	}
	return x.runs, nil
}
