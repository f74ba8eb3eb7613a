package cow

import (
	"context"
	"fmt"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/slackerd/slacker/block"
)

// CheckFlats compares every flat page with what its layer sees, and calls wrong
// for each that is damaged, says something else, or is of no layer (M9). Where
// the blocks are may differ. It returns how many pages there are.
func (a *Audit) CheckFlats(ctx context.Context, wrong func(l block.LayerID, pageNo uint32, what string)) (n int, err error) {
	c := flatCheck{a: a, layers: map[block.LayerID]*LayerRecord{}, pages: map[MapID]*roaring.Bitmap{}, named: map[block.LayerID]bool{},
		kids: map[block.LayerID][]*LayerRecord{}}
	for i := range a.catalog.Layers {
		r := &a.catalog.Layers[i]
		c.layers[r.ID] = r
		if r.Parent < r.ID { // else it is damage, and might be a circle
			c.kids[r.Parent] = append(c.kids[r.Parent], r)
		}
	}
	for i := range a.catalog.Volumes {
		c.named[a.catalog.Volumes[i].Head] = true
	}
	for i := range a.catalog.Snapshots {
		c.named[a.catalog.Snapshots[i].Layer] = true
	}
	err = a.d.scan(ctx, []byte{keyFlat}, func(k, v []byte) error {
		n++
		l, pageNo, ok := parseFlatKey(k)
		if !ok {
			wrong(0, 0, fmt.Sprintf("a flat page has a key of %d bytes, want %d", len(k), pageKeyLen))
			return nil
		}
		var p page
		if c.layers[l] == nil {
			wrong(l, pageNo, "a flat page of a layer that does not exist")
		} else if err := overlayPage(&p, k, v); err != nil {
			wrong(l, pageNo, err.Error())
		} else if what, err := c.compare(ctx, l, pageNo, &p); err != nil {
			return err
		} else if what != "" {
			wrong(l, pageNo, what)
		}
		return nil
	})
	return n, err
}

type flatCheck struct {
	a      *Audit
	layers map[block.LayerID]*LayerRecord
	pages  map[MapID]*roaring.Bitmap // which pages a map has
	named  map[block.LayerID]bool
	kids   map[block.LayerID][]*LayerRecord
}

// compare says in what a flat page differs from what its layer sees, or "". What
// all layers on it hide may have been dropped since.
func (c *flatCheck) compare(ctx context.Context, l block.LayerID, n uint32, flat *page) (string, error) {
	want, unknown, err := c.sees(ctx, l, n)
	if err != nil || unknown {
		return "", err
	}
	for i := range flat.addr {
		got, is := flat.entry(i), want.entry(i)
		if got.IsData() == is.IsData() && (!got.IsData() || got.Sum == is.Sum) {
			continue
		}
		if seen, err := c.seenOn(ctx, l, n, i); err != nil || !seen {
			if err != nil {
				return "", err
			}
			continue
		}
		return fmt.Sprintf("block %d is at %v with checksum %08x in the flat page, at %v with %08x in the maps",
			uint64(n)*PageBlocks+uint64(i), got.Addr, got.Sum, is.Addr, is.Sum), nil
	}
	return "", nil
}

// seenOn reports whether a named layer sees what l sees at a block of a page. What
// cannot be read hides nothing.
func (c *flatCheck) seenOn(ctx context.Context, l block.LayerID, n uint32, i int) (bool, error) {
	if c.named[l] {
		return true, nil
	}
	for _, k := range c.kids[l] {
		own, _, err := c.own(ctx, k, n)
		if err != nil {
			return false, err
		}
		if own != nil && !own.entry(i).IsAbsent() {
			continue
		}
		if seen, err := c.seenOn(ctx, k.ID, n, i); err != nil || seen {
			return seen, err
		}
	}
	return false, nil
}

// sees resolves a page from the maps. unknown says that one of them is damaged,
// which the check of the maps reports.
func (c *flatCheck) sees(ctx context.Context, l block.LayerID, n uint32) (p page, unknown bool, err error) {
	for r := c.layers[l]; r != nil; r = c.layers[r.Parent] {
		own, unknown, err := c.own(ctx, r, n)
		if err != nil || unknown {
			return p, unknown, err
		}
		if own != nil && p.under(own) {
			break
		}
		if r.Parent >= r.ID {
			break // damage, which is reported too
		}
	}
	return p, false, nil
}

// own returns a layer's own entries of a page, or nil if it has none.
func (c *flatCheck) own(ctx context.Context, r *LayerRecord, n uint32) (p *page, unknown bool, err error) {
	pages := c.pages[r.Map]
	if pages == nil {
		own, err := c.a.d.pagesOf(ctx, r.Map)
		if err != nil {
			return nil, block.Is(err, block.Corrupt), notCorrupt(err)
		}
		pages = roaring.New()
		pages.AddMany(own)
		c.pages[r.Map] = pages
	}
	if !pages.Contains(n) {
		return nil, false, nil
	}
	p = new(page)
	if _, err := c.a.d.loadPage(r.Map, n, p); err != nil {
		return nil, block.Is(err, block.Corrupt), notCorrupt(err)
	}
	return p, false, nil
}

func notCorrupt(err error) error {
	if block.Is(err, block.Corrupt) {
		return nil
	}
	return err
}
