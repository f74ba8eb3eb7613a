package check

import (
	"context"

	"github.com/slackerd/slacker/block"
)

// Slice is what one part of a scrub found.
type Slice struct {
	Damages []Damage
	// Next is the segment after which the scrub goes on; 0: all have been read.
	Next block.SegmentID
	// Blocks is how many live blocks were read, Total how many there are.
	Blocks, Total uint64
}

// part is what a scrub reads of a store at a time.
type part struct {
	after  block.SegmentID
	budget int64 // blocks
	next   block.SegmentID
	blocks uint64
}

// Scrub is Run for a part of the store: the catalog and the map, and the
// segments after one, with their data, until about budget live blocks have been
// read. A store can be verified so over days: nothing is held back meanwhile.
func Scrub(ctx context.Context, o Options, after block.SegmentID, budget int64) (Slice, error) {
	o.Data = true
	p := &part{after: after, budget: max(1, min(budget, refBudget))}
	total := uint64(0)
	damages, err := run(ctx, o, p, func(w *walk) {
		for _, n := range w.live {
			total += uint64(n)
		}
	})
	return Slice{Damages: damages, Next: p.next, Blocks: p.blocks, Total: total}, err
}

// take returns those of the segments, in order, that are the part's, and notes
// where the next one begins.
func (p *part) take(order []block.SegmentID, live map[block.SegmentID]int64) []block.SegmentID {
	for len(order) > 0 && order[0] <= p.after {
		order = order[1:]
	}
	n := int64(0)
	for k, id := range order {
		if k > 0 && n+live[id] > p.budget {
			p.next = order[k-1]
			order = order[:k]
			break
		}
		n += live[id]
	}
	p.blocks = uint64(n)
	return order
}
