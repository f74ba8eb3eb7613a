package cow

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/slackerd/slacker/block"
)

// Forward says which layer holds what a merged layer held. The log's records
// keep the number of the layer that they were written for, so it is needed for
// as long as a segment has such records (M8).
type Forward struct {
	Into block.LayerID
	// First and Last are the segments between which all records lie that name
	// the merged layer. A First of zero means that the beginning is not known.
	First, Last block.SegmentID

	short bool // stored without First and Last, as format 1 did
}

// The stored forms of a Forward.
const (
	shortForwardBytes = 8
	forwardBytes      = 24
)

// loadForwards reads the forwards. Those of format 1 do not say where the
// records are: all that is known is that none was written after the replay point.
func (d *DB) loadForwards(ctx context.Context, c *Catalog) error {
	c.Merged = map[block.LayerID]Forward{}
	le := binary.LittleEndian
	return d.scan(ctx, []byte{keyMerged}, func(k, v []byte) error {
		if len(k) != 9 || len(v) != shortForwardBytes && len(v) != forwardBytes {
			return block.Errorf(block.Corrupt, "catalog: forward %q has %d bytes, want %d or %d", k, len(v), shortForwardBytes, forwardBytes)
		}
		f := Forward{Into: block.LayerID(le.Uint64(v)), Last: c.Replay.Segment, short: true}
		if len(v) == forwardBytes {
			f.First, f.Last, f.short = block.SegmentID(le.Uint64(v[8:])), block.SegmentID(le.Uint64(v[16:])), false
		}
		c.Merged[block.LayerID(binary.BigEndian.Uint64(k[1:]))] = f
		return nil
	})
}

func (t *Tx) putForward(from block.LayerID, f Forward) {
	v := binary.LittleEndian.AppendUint64(nil, uint64(f.Into))
	v = binary.LittleEndian.AppendUint64(v, uint64(f.First))
	v = binary.LittleEndian.AppendUint64(v, uint64(f.Last))
	t.set(idKey(keyMerged, uint64(from)), v)
}

func (t *Tx) deleteForward(from block.LayerID) {
	t.del(idKey(keyMerged, uint64(from)))
}

// forwardsTo lists the layers whose merges lead to the layer.
func (t *Tree) forwardsTo(id block.LayerID) []block.LayerID {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.into[id]
}

// forward notes under mu that from was merged into another layer.
func (t *Tree) forward(from block.LayerID, f Forward) {
	t.merged[from] = f
	less, more := t.into[from], t.into[f.Into]
	if len(less) > len(more) {
		less, more = more, less
	}
	delete(t.into, from)
	t.into[f.Into] = append(append(more, less...), from)
}

// MergesInto returns the only child of an unnamed layer, or nil: a merge that was
// cut short has moved a part of the layer's entries there.
func (t *Tree) MergesInto(l *Layer) *Layer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if l.names == 0 && len(l.kids) == 1 {
		for k := range l.kids {
			return k
		}
	}
	return nil
}

// Forwards is how many forwards there are.
func (t *Tree) Forwards() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.merged)
}

// DropForwards durably drops the forwards of which no segment can have records
// any more, and returns how many. segments are all that exist, in order.
func (t *Tree) DropForwards(segments []block.SegmentID) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	gone, touched := map[block.LayerID]bool{}, map[block.LayerID]bool{}
	for from, f := range t.merged {
		i, _ := slices.BinarySearch(segments, f.First)
		l, _ := t.resolve(from)
		if gone[from] = l == nil || i == len(segments) || segments[i] > f.Last; gone[from] && l != nil {
			touched[l.ID] = true
		}
	}
	x := t.db.Begin()
	keep, dropped, changed := map[block.LayerID]Forward{}, 0, false
	for from, f := range t.merged {
		if gone[from] {
			x.deleteForward(from)
			dropped++
			continue
		}
		l, _ := t.resolve(from)
		if f.short || touched[l.ID] { // what is stored may lead through one that goes
			f.short, changed = false, true
			x.putForward(from, Forward{Into: l.ID, First: f.First, Last: f.Last})
		}
		f.Into = l.ID
		keep[from] = f
	}
	if dropped == 0 && !changed {
		x.Discard()
		return 0, nil
	}
	if err := x.Commit(true); err != nil {
		return 0, err
	}
	t.merged, t.into = keep, map[block.LayerID][]block.LayerID{}
	for from, f := range keep {
		t.into[f.Into] = append(t.into[f.Into], from)
	}
	return dropped, nil
}
