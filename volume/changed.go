package volume

import (
	"context"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
)

// Changed is a run of bytes that differs from a snapshot, or does not.
type Changed struct {
	LengthBytes uint64
	Differs     bool
}

// Base is a snapshot that devices are compared with. While it is open the
// snapshot cannot be deleted.
type Base struct{ d *Device }

// OpenBase opens a snapshot, VOLUME@SNAPSHOT, for one connection from remote.
func (s *Store) OpenBase(ctx context.Context, target, remote string) (*Base, error) {
	if _, _, err := block.SplitSnapshot(target); err != nil {
		return nil, err
	}
	d, err := s.OpenReadOnly(ctx, target, remote, nil)
	if err != nil {
		return nil, err
	}
	return &Base{d}, nil
}

// Close ends the use of the snapshot.
func (b *Base) Close() error { return b.d.Close() }

// Changed appends which runs of the range may differ from a snapshot, of any
// volume: at most maxRuns, in blocks, from offBytes on. A block that was
// overwritten, with the same data too, differs; one that only was moved by the
// cleaner may. What a block's end lies beyond the snapshot's counts as zero
// there.
//
// A write in progress is in the answer or not, as for a read.
func (d *Device) Changed(ctx context.Context, dst []Changed, base *Base, offBytes, lengthBytes uint64, maxRuns int) ([]Changed, error) {
	l, err := d.enter()
	if err != nil {
		return nil, err
	}
	defer d.leave()
	sp := spanOf(offBytes, lengthBytes)
	at, end, start := offBytes, offBytes+lengthBytes, len(dst)
	es, was := entries(cow.PageBlocks), entries(cow.PageBlocks)
	defer entryPool.Put(es)
	defer entryPool.Put(was)
	for i := sp.first; at < end; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n := min(cow.PageBlocks-uint64(i)%cow.PageBlocks, uint64(sp.first)+sp.count-uint64(i))
		if err := d.s.tree.Lookup(l, i, (*es)[:n]); err != nil {
			return nil, err
		}
		// The snapshot's layer never changes and lives as long as its device. Its
		// gate is not passed: it may be this one, which is not taken twice.
		if err := d.s.tree.Lookup(base.d.layer, i, (*was)[:n]); err != nil {
			return nil, err
		}
		for k := range n {
			stop := min(end, (uint64(i)+k+1)*block.Size)
			a, b := (*es)[k], (*was)[k]
			differs := a != b && (a.IsData() || b.IsData())
			if m := len(dst); m > start && dst[m-1].Differs == differs {
				dst[m-1].LengthBytes += stop - at
			} else if m-start == maxRuns {
				return dst, nil
			} else {
				dst = append(dst, Changed{stop - at, differs})
			}
			at = stop
		}
		i += block.Index(n)
	}
	return dst, nil
}
