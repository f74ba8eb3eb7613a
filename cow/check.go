package cow

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/slackerd/slacker/block"
)

// Entries calls fn for every own entry of a layer that is data, in order of
// blocks, as committed. A page that does not decode is passed to bad, whose
// error, if any, ends the walk.
func (t *Tree) Entries(ctx context.Context, l *Layer, fn func(i block.Index, e Entry) error, bad func(page uint32, err error) error) error {
	return t.db.scan(ctx, idKey(keyPage, uint64(t.mapOf(l))), func(k, v []byte) error {
		_, n, ok := parsePageKey(k)
		var p page
		err := overlayPage(&p, k, v)
		if !ok || err != nil {
			return bad(n, err)
		}
		for i := range p.addr {
			if e := p.entry(i); e.IsData() {
				if err := fn(block.Index(n)*PageBlocks+block.Index(i), e); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Layers returns all layers.
func (t *Tree) Layers() []*Layer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.SortedFunc(maps.Values(t.layers), func(a, b *Layer) int { return cmp.Compare(b.ID, a.ID) })
}

// CheckCounts compares the counters with the entries (invariant M3) and wants
// no block of a segment named twice (M1). It wants everything committed, and
// nothing to change meanwhile.
func (t *Tree) CheckCounts(ctx context.Context) error {
	var errs []error
	live := map[block.SegmentID]int64{}
	named := map[block.Addr]block.LayerID{}
	for _, l := range t.Layers() {
		var own int64
		err := t.Entries(ctx, l, func(i block.Index, e Entry) error {
			own++
			live[e.Addr.Segment()]++
			if other, twice := named[e.Addr]; twice {
				errs = append(errs, block.Errorf(block.Corrupt, "extent map: %v is named by block %d of layer %d and by layer %d", e.Addr, i, l.ID, other))
			}
			named[e.Addr] = l.ID
			return nil
		}, func(_ uint32, err error) error { return err })
		if err != nil {
			return err
		}
		if n := int64(t.DataBlocks(l)); n != own {
			errs = append(errs, block.Errorf(block.Corrupt, "extent map: layer %d holds %d blocks, its counter says %d", l.ID, own, n))
		}
	}
	errs = append(errs, t.checkLive(live)...)
	stored, err := t.db.LoadCatalog(ctx)
	if err != nil {
		return err
	}
	for s, n := range stored.Live {
		if n != live[s] {
			errs = append(errs, block.Errorf(block.Corrupt, "extent map: segment %d has %d live blocks, its stored counter says %d", s, live[s], n))
		}
	}
	return errors.Join(errs...)
}

func (t *Tree) checkLive(live map[block.SegmentID]int64) (errs []error) {
	t.counts.Lock()
	defer t.counts.Unlock()
	for s, n := range t.counts.live {
		if n != live[s] {
			errs = append(errs, block.Errorf(block.Corrupt, "extent map: segment %d has %d live blocks, its counter says %d", s, live[s], n))
		}
	}
	for s, n := range live {
		if t.counts.live[s] != n {
			errs = append(errs, block.Errorf(block.Corrupt, "extent map: segment %d has %d live blocks and no counter", s, n))
		}
	}
	return errs
}
