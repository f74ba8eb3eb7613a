package cow

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"

	"github.com/slackerd/slacker/block"
)

// rebuildBatch is how many bytes one commit of a rebuild has.
const rebuildBatch = 4 << 20

// Rebuild makes a map from the catalog of a journal and the records of the log, in
// the order of the log. A layer that was merged into another is a layer again, below
// that: so each block is what the youngest layer that has it says, and of one layer
// what was written last, which is what the lost map said.
type Rebuild struct {
	d      *DB
	x      *Tx
	layers map[block.LayerID]*LayerRecord
	nextID uint64
}

// NewRebuild begins a map in o.Dir, which must be empty, with the records of a
// journal; nil if there is none.
func NewRebuild(o Options, records map[string][]byte) (*Rebuild, error) {
	d, err := Open(o)
	if err != nil {
		return nil, err
	}
	r := &Rebuild{d: d, x: d.Begin(), layers: map[block.LayerID]*LayerRecord{}, nextID: 1}
	if err := r.takeCatalog(records); err != nil {
		return nil, errors.Join(err, r.Abort())
	}
	return r, nil
}

func (r *Rebuild) takeCatalog(records map[string][]byte) error {
	into := map[block.LayerID]block.LayerID{}
	for k, v := range records {
		switch k[0] {
		case keyLayer:
			l := &LayerRecord{}
			if err := json.Unmarshal(v, l); err != nil {
				return block.Errorf(block.Corrupt, "journal: layer record %q: %w", k, err)
			}
			l.Map = MapID(l.ID)
			r.layers[l.ID] = l
		case keyMerged:
			if len(k) != 9 || len(v) != shortForwardBytes && len(v) != forwardBytes {
				return block.Errorf(block.Corrupt, "journal: forward %q has %d bytes", k, len(v))
			}
			into[block.LayerID(binary.BigEndian.Uint64([]byte(k[1:])))] = block.LayerID(binary.LittleEndian.Uint64(v))
		case keyNextID:
			if len(v) != 8 {
				return block.Errorf(block.Corrupt, "journal: the next id has %d bytes, want 8", len(v))
			}
			r.nextID = binary.LittleEndian.Uint64(v)
		default:
			r.x.note(r.x.b.Set([]byte(k), v, nil))
		}
	}
	r.unmerge(into)
	return nil
}

// unmerge makes layers of those that were merged into others.
func (r *Rebuild) unmerge(into map[block.LayerID]block.LayerID) {
	family := map[block.LayerID][]block.LayerID{}
	for from := range into {
		to, ok := into[from], true
		for ok && r.layers[to] == nil {
			to, ok = into[to]
		}
		if ok {
			family[to] = append(family[to], from)
		}
	}
	for to, below := range family {
		slices.Sort(below)
		slices.Reverse(below)
		at := r.layers[to]
		for _, id := range below {
			l := &LayerRecord{ID: id, Map: MapID(id), Parent: at.Parent}
			r.layers[id] = l
			at.Parent = id
			at = l
		}
	}
}

// Has says whether the catalog has a layer, or had it before it was merged.
func (r *Rebuild) Has(l block.LayerID) bool { return r.layers[l] != nil }

// AddVolume adds a volume whose head is a layer that the catalog does not have.
func (r *Rebuild) AddVolume(v *VolumeRecord) {
	r.layers[v.Head] = &LayerRecord{ID: v.Head, Map: MapID(v.Head)}
	r.x.PutVolume(v)
}

// Add takes over a record of the log.
func (r *Rebuild) Add(l block.LayerID, run Run) error {
	r.x.mergeRun(MapID(l), run)
	if r.x.Len() < rebuildBatch {
		return nil
	}
	err := r.x.Commit(false)
	r.x = r.d.Begin()
	return err
}

// Finish writes the layers, counts, and makes all durable. No id below nextID is
// given out any more.
func (r *Rebuild) Finish(ctx context.Context, p ReplayPoint, nextID uint64) error {
	for _, l := range r.layers {
		r.x.PutLayer(l)
	}
	r.x.SetNextID(max(r.nextID, nextID))
	r.x.SetReplay(p)
	err := r.x.Commit(true)
	r.x = r.d.Begin()
	if err != nil {
		return err
	}
	live, data := map[block.SegmentID]int64{}, map[MapID]int64{}
	for id := range r.layers {
		err := r.d.scan(ctx, idKey(keyPage, uint64(id)), func(k, v []byte) error {
			var p page
			if err := overlayPage(&p, k, v); err != nil {
				return err
			}
			for i := range p.addr {
				if e := p.entry(i); e.IsData() {
					live[e.Addr.Segment()]++
					data[MapID(id)]++
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	r.x.addCounts(live, data)
	err = r.x.Commit(true)
	r.x = nil
	if err != nil {
		return err
	}
	return errors.Join(r.d.Settle(), r.d.Close())
}

// Abort closes what was begun.
func (r *Rebuild) Abort() error {
	if r.x != nil {
		r.x.Discard()
	}
	return r.d.Close()
}
