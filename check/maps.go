package check

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
)

// catalog checks that the records fit together.
func (w *walk) catalog() {
	c := w.audit.Catalog()
	w.layerLinks(c)
	volumes, used := map[block.VolumeID]bool{}, map[string]bool{}
	for _, v := range c.Volumes {
		object := fmt.Sprintf("volume %d (%s)", v.ID, v.Name)
		volumes[v.ID] = true
		if _, ok := w.forest.layers[v.Head]; !ok {
			w.report(Catalog, object, []string{v.Name}, "its head is layer %d, which does not exist", v.Head)
		}
		if len(w.forest.kids[v.Head]) > 0 {
			w.report(Catalog, object, []string{v.Name}, "its head, layer %d, has other layers on it: it should be sealed", v.Head)
		}
		if uint64(v.ID) >= c.NextID {
			w.report(Catalog, object, []string{v.Name}, "its id is not below the next id, %d", c.NextID)
		}
		if used[v.Name] {
			w.report(Catalog, object, []string{v.Name}, "another volume has the same name")
		}
		used[v.Name] = true
	}
	for _, s := range c.Snapshots {
		object := fmt.Sprintf("snapshot %s of volume %d", s.Name, s.Volume)
		if !volumes[s.Volume] {
			w.report(Catalog, object, nil, "the volume does not exist")
		}
		if _, ok := w.forest.layers[s.Layer]; !ok {
			w.report(Catalog, object, nil, "its layer %d does not exist", s.Layer)
		}
	}
	for _, a := range c.Attachments {
		if !volumes[a.Volume] {
			w.report(Catalog, "attachment "+a.ID, nil, "volume %d does not exist", a.Volume)
		}
	}
}

func (w *walk) layerLinks(c *cow.Catalog) {
	owner := map[cow.MapID]block.LayerID{}
	for _, l := range c.Layers {
		object := fmt.Sprintf("layer %d", l.ID)
		_, there := w.forest.layers[l.Parent]
		if l.Parent != 0 && (!there || l.Parent >= l.ID) {
			w.report(Catalog, object, w.forest.below(l.ID), "its parent, layer %d, does not exist or is not older", l.Parent)
		}
		if other, taken := owner[l.Map]; taken {
			w.report(Catalog, object, w.forest.below(l.ID), "it has map %d, as layer %d has", l.Map, other)
		}
		owner[l.Map] = l.ID
		if uint64(l.ID) >= c.NextID || uint64(l.Map) >= c.NextID {
			w.report(Catalog, object, w.forest.below(l.ID), "its id, or that of its map %d, is not below the next id, %d", l.Map, c.NextID)
		}
	}
	for from, f := range c.Merged {
		to := f.Into
		_, is := w.forest.layers[to]
		if _, on := c.Merged[to]; !is && !on || to <= from {
			w.report(Catalog, fmt.Sprintf("merged layer %d", from), nil, "it was merged into layer %d, which does not exist or is not newer", to)
		}
	}
}

// journal compares the copy of the catalog with it.
func (w *walk) journal(ctx context.Context) error {
	file, fault, err := w.o.Tree.CheckJournal(ctx)
	if fault != "" {
		w.report(Journal, file, nil, "%s; it is made anew when the store is opened", fault)
	}
	return block.Wrap(block.IO, err, "check")
}

// maps reads every page once, and compares the counters.
func (w *walk) maps(ctx context.Context) error {
	c := w.audit.Catalog()
	known := map[cow.MapID]bool{}
	whole := true
	for i, l := range c.Layers {
		w.o.Progress(uint64(i), uint64(len(c.Layers)), "layers")
		known[l.Map] = true
		n, err := w.mapOf(ctx, l)
		if err != nil {
			return err
		}
		if w.torn[l.Map] {
			whole = false // the counters say nothing now
		} else if c.Counts[l.Map] != n {
			w.report(Counter, fmt.Sprintf("layer %d", l.ID), w.forest.below(l.ID), "it holds %d data blocks, its counter says %d", n, c.Counts[l.Map])
		}
	}
	w.o.Progress(uint64(len(c.Layers)), uint64(len(c.Layers)), "layers")
	for _, m := range slices.Sorted(maps.Keys(c.Counts)) {
		if !known[m] && c.Counts[m] != 0 {
			w.report(Counter, fmt.Sprintf("map %d", m), nil, "no layer has it, its counter says %d data blocks", c.Counts[m])
		}
	}
	if err := w.strayMaps(known); err != nil {
		return err
	}
	if err := w.flats(ctx); err != nil {
		return err
	}
	if whole {
		w.liveCounters(c)
	}
	return nil
}

func (w *walk) strayMaps(known map[cow.MapID]bool) error {
	all, err := w.audit.Maps()
	if err != nil {
		if !block.Is(err, block.Corrupt) {
			return block.Wrap(block.IO, err, "check")
		}
		w.report(Map, "extent map", nil, "%v", err)
	}
	for _, m := range all {
		if !known[m] {
			w.report(Map, fmt.Sprintf("map %d", m), nil, "it has pages, and no layer has it")
		}
	}
	return nil
}

// flats compares the copies of pages that reads use with the maps.
func (w *walk) flats(ctx context.Context) error {
	_, err := w.audit.CheckFlats(ctx, func(l block.LayerID, pageNo uint32, what string) {
		w.report(Map, fmt.Sprintf("flat page %d of layer %d", pageNo, l), w.forest.below(l), "%s", what)
	})
	if block.Is(err, block.Corrupt) {
		w.report(Map, "flat pages", nil, "they cannot be read: %v", err)
		return nil
	}
	return block.Wrap(block.IO, err, "check")
}

func (w *walk) liveCounters(c *cow.Catalog) {
	ids := maps.Clone(w.live)
	maps.Copy(ids, c.Live)
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		if w.live[id] != c.Live[id] {
			w.report(Counter, fmt.Sprintf("segment %d", id), nil, "%d blocks of it are live, its counter says %d", w.live[id], c.Live[id])
		}
	}
}

// mapOf counts the data blocks of a layer, and by segment.
func (w *walk) mapOf(ctx context.Context, l cow.LayerRecord) (n int64, err error) {
	err = w.audit.Pages(ctx, l.Map, func(pageNo uint32, es *[cow.PageBlocks]cow.Entry, bad error) error {
		if bad != nil {
			w.torn[l.Map] = true
			w.report(Map, fmt.Sprintf("layer %d page %d", l.ID, pageNo), w.forest.below(l.ID),
				"blocks %d to %d cannot be found: %v", uint64(pageNo)*cow.PageBlocks, (uint64(pageNo)+1)*cow.PageBlocks-1, bad)
			return nil
		}
		for i := range es {
			if es[i].IsData() {
				n++
				w.live[es[i].Addr.Segment()]++
			}
		}
		return nil
	})
	if err == nil || ctx.Err() != nil {
		return n, ctx.Err()
	}
	w.torn[l.Map] = true
	w.report(Map, fmt.Sprintf("layer %d", l.ID), w.forest.below(l.ID), "its pages cannot be read: %v", err)
	return n, nil
}
