package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
	"github.com/slackerd/slacker/segment"
)

// refBudget bounds how many entries are in memory at a time (about 160 MiB). A
// store with more live blocks is checked in several passes over its map.
const refBudget = 4 << 20

// ref is an entry of the map, seen from the segment that it names.
type ref struct {
	at    uint32 // block of the segment
	sum   uint32
	layer block.LayerID
	index block.Index
	bad   string // what is wrong with it, looked into at the end
	kind  string
}

// segments checks every segment, and the entries against the segments.
func (w *walk) segments(ctx context.Context) error {
	infos := map[block.SegmentID]segment.Info{}
	for _, g := range w.o.Log.Segments() {
		infos[g.ID] = g
	}
	ids := maps.Clone(w.live)
	for id := range infos {
		if _, named := ids[id]; !named {
			ids[id] = 0
		}
	}
	for _, id := range w.o.Log.Unreadable() {
		if w.live[id] == 0 {
			w.report(Segment, segmentObject(id), nil, "its header does not verify; nothing in use is in it")
		}
		ids[id] += 0
	}
	var done, total uint64
	for _, n := range w.live {
		total += uint64(n)
	}
	order := slices.Sorted(maps.Keys(ids))
	if w.part != nil {
		order = w.part.take(order, ids)
	}
	for len(order) > 0 {
		k, n := 0, int64(0)
		for k < len(order) && (k == 0 || n+ids[order[k]] <= refBudget) {
			n += ids[order[k]]
			k++
		}
		refs, err := w.gather(ctx, order[:k])
		if err != nil {
			return err
		}
		for _, id := range order[:k] {
			w.o.Progress(done, total, "blocks")
			if err := w.segment(ctx, id, infos, refs[id]); err != nil {
				return err
			}
			done += uint64(len(refs[id]))
		}
		order = order[k:]
	}
	w.o.Progress(total, total, "blocks")
	return nil
}

func segmentObject(id block.SegmentID) string {
	return fmt.Sprintf("segment %d (%s)", id, segment.FileName(id))
}

// gather collects the entries that name the segments, in order of their place.
func (w *walk) gather(ctx context.Context, ids []block.SegmentID) (map[block.SegmentID][]ref, error) {
	refs := map[block.SegmentID][]ref{}
	for _, id := range ids {
		refs[id] = make([]ref, 0, w.live[id])
	}
	for _, l := range w.audit.Catalog().Layers {
		err := w.audit.Pages(ctx, l.Map, func(pageNo uint32, es *[cow.PageBlocks]cow.Entry, bad error) error {
			for i := 0; bad == nil && i < len(es); i++ {
				if e := es[i]; e.IsData() {
					if of, wanted := refs[e.Addr.Segment()]; wanted {
						refs[e.Addr.Segment()] = append(of, ref{at: e.Addr.Block(), sum: e.Sum, layer: l.ID,
							index: block.Index(pageNo)*cow.PageBlocks + block.Index(i)})
					}
				}
			}
			return nil
		})
		if ctx.Err() != nil || err != nil && !w.torn[l.Map] {
			return nil, block.Wrap(block.IO, errors.Join(ctx.Err(), err), "check")
		}
	}
	for _, of := range refs {
		slices.SortFunc(of, func(a, b ref) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.layer, b.layer)) })
	}
	return refs, nil
}

// segment checks one segment and the entries that name it.
func (w *walk) segment(ctx context.Context, id block.SegmentID, infos map[block.SegmentID]segment.Info, refs []ref) error {
	w.twice(id, refs)
	c := &placer{w: w, refs: refs}
	err := w.o.Log.Scan(ctx, id, c.record)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		for i := range refs {
			if refs[i].bad == "" && !c.placed[i] {
				refs[i].kind, refs[i].bad = Entry, fmt.Sprintf("it names block %d of segment %d, where no data was written", refs[i].at, id)
			}
		}
	case errors.Is(err, segment.ErrGone):
		for i := range refs {
			refs[i].kind, refs[i].bad = Entry, fmt.Sprintf("it names block %d of segment %d, which does not exist", refs[i].at, id)
		}
	default:
		w.report(Segment, segmentObject(id), w.viewers(refs[c.reached:]), "%v", err)
	}
	if w.o.Data {
		if err := w.data(ctx, id, refs); err != nil {
			return err
		}
	}
	if g, ok := infos[id]; ok && len(refs) == 0 && err == nil && !g.Active && id < w.audit.Catalog().Replay.Segment {
		w.o.Orphan(g)
	}
	return w.settle(ctx, id, refs)
}

// twice reports the places that several entries name.
func (w *walk) twice(id block.SegmentID, refs []ref) {
	for i := 1; i < len(refs); i++ {
		if a, b := refs[i-1], refs[i]; a.at == b.at {
			names := append(w.forest.see(a.layer, a.index), w.forest.see(b.layer, b.index)...)
			slices.Sort(names)
			w.report(Twice, fmt.Sprintf("segment %d block %d", id, a.at), slices.Compact(names),
				"block %d of layer %d and block %d of layer %d both name it", a.index, a.layer, b.index, b.layer)
		}
	}
}

// viewers returns who sees what the entries name, without regard to what hides
// single blocks.
func (w *walk) viewers(refs []ref) (names []string) {
	layers := map[block.LayerID]bool{}
	for _, r := range refs {
		if !layers[r.layer] {
			layers[r.layer] = true
			names = append(names, w.forest.below(r.layer)...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// placer compares entries with the records that wrote what they name. Records
// of a segment come in order of their place.
type placer struct {
	w       *walk
	refs    []ref
	placed  map[int]bool
	reached int // refs before it have been compared
}

func (c *placer) record(rec segment.Record) error {
	if rec.Kind == segment.Zero {
		return nil
	}
	if c.placed == nil {
		c.placed = make(map[int]bool, len(c.refs))
	}
	first := rec.Addr.Block()
	for ; c.reached < len(c.refs) && c.refs[c.reached].at < first+rec.Count; c.reached++ {
		r := &c.refs[c.reached]
		if r.at < first {
			continue // written by no record
		}
		c.placed[c.reached] = true
		n := r.at - first
		switch {
		case rec.First+block.Index(n) != r.index:
			r.kind, r.bad = Entry, fmt.Sprintf("it names %v, where block %d was written", rec.Addr+block.Addr(n), rec.First+block.Index(n))
		case rec.Sums[n] != r.sum:
			r.kind, r.bad = Entry, fmt.Sprintf("it names %v with checksum %08x, the log has %08x", rec.Addr+block.Addr(n), r.sum, rec.Sums[n])
		case !c.w.mayHold(r.layer, c.w.heir(rec.Layer)):
			r.kind, r.bad = Entry, fmt.Sprintf("it names %v, which was written for layer %d", rec.Addr+block.Addr(n), rec.Layer)
		}
	}
	return nil
}

// heir returns the layer that holds what was written for a layer.
func (w *walk) heir(id block.LayerID) block.LayerID {
	for {
		if _, is := w.forest.layers[id]; is {
			return id
		}
		next, ok := w.audit.Catalog().Merged[id]
		if !ok || next.Into <= id {
			return id
		}
		id = next.Into
	}
}

// mayHold says whether a layer may hold what was written for another: it is the
// same, or they are being merged, which moves entries page by page.
func (w *walk) mayHold(l, writtenFor block.LayerID) bool {
	lower, upper := min(l, writtenFor), max(l, writtenFor)
	f := w.forest
	return lower == upper || f.layers[upper].Parent == lower && len(f.names[lower]) == 0 && len(f.kids[lower]) == 1
}

// replay checks that the log has the place where a replay would begin.
func (w *walk) replay(ctx context.Context) error {
	p := w.audit.Catalog().Replay
	if p.Segment == 0 {
		return nil
	}
	wrong := ""
	err := w.o.Log.Scan(ctx, p.Segment, func(rec segment.Record) error {
		if rec.Kind != segment.Zero && (rec.Addr.Block() < p.Block) != (uint64(rec.LSN) < p.NextLSN) {
			wrong = fmt.Sprintf("record %d is at block %d", rec.LSN, rec.Addr.Block())
		}
		return nil
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	object := fmt.Sprintf("segment %d block %d, record %d", p.Segment, p.Block, p.NextLSN)
	switch {
	case wrong != "":
		w.report(Replay, object, nil, "the log does not go on there: %s", wrong)
	case errors.Is(err, segment.ErrGone) && !w.advanced(ctx):
		w.report(Replay, object, nil, "the segment does not exist")
	}
	return nil
}

// advanced says whether the replay point is another by now, so that the segment
// it was in may be gone.
func (w *walk) advanced(ctx context.Context) bool {
	was := w.audit.Catalog().Replay
	now, err := w.o.Tree.Audit(ctx)
	if err != nil {
		return false
	}
	defer func() { _ = now.Close() }()
	return now.Catalog().Replay.Segment > was.Segment
}
