package cow

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
)

// Usage counts blocks.
type Usage struct {
	Logical   uint64 // data blocks that one of the layers sees
	Exclusive uint64 // of these, seen by no other named layer: what removing them all would free
}

// Usage counts what the named layers ls hold together, as of one moment.
// Changes that are not committed do not count. It holds no lock but for the
// moment in which it copies the links of the layers concerned; a snapshot of
// Pebble keeps old pages alive until it returns.
//
// It takes time in proportion to the pages that ls and their ancestors hold, and
// for each of these to the layers that hide or share it: below a layer that
// another name sees, nothing is looked at.
func (t *Tree) Usage(ctx context.Context, ls []*Layer) (u Usage, err error) {
	c := t.newCensus(ls)
	defer func() { err = errors.Join(err, c.d.view.Close()) }()
	all := roaring.New()
	for _, s := range c.chain {
		own, err := c.d.pagesOf(ctx, s.mapID)
		if err != nil {
			return u, err
		}
		s.pages.AddMany(own)
		all.Or(s.pages)
	}
	for it := all.Iterator(); it.HasNext(); {
		if err := ctx.Err(); err != nil {
			return u, err
		}
		if err := c.page(it.Next(), &u); err != nil {
			return u, err
		}
	}
	return u, nil
}

// census is the layers that a Usage looks at, as of one moment.
type census struct {
	d     *DB     // at that moment
	chain []*seat // the layers counted and their ancestors, the youngest first
}

// seat is a layer in a census. Layers whose children cannot matter have none.
type seat struct {
	mapID  MapID
	kids   []*seat
	mine   bool            // it is counted
	others bool            // something that is not counted sees it
	pages  *roaring.Bitmap // of a layer of the chain, else nil

	// Of the page at hand, for layers of the chain.
	own                    *ownPage // nil: it has no such page
	wanted, held, elsewise mask     // seen from here down by what is counted; own entries of these; seen by others
}

func (t *Tree) newCensus(ls []*Layer) *census {
	named := map[*Layer]int{}
	for _, l := range ls {
		named[l]++
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	c := &census{d: t.db.snapshot()}
	chain := map[*Layer]*seat{}
	var order []*Layer
	for _, l := range ls {
		for a := l; a != nil && chain[a] == nil; a = a.parent {
			chain[a] = &seat{mapID: a.mapID, mine: named[a] > 0, others: a.names > named[a], pages: roaring.New()}
			order = append(order, a)
		}
	}
	// A layer is younger than its parent, and so has the greater number.
	slices.SortFunc(order, func(a, b *Layer) int { return cmp.Compare(b.ID, a.ID) })
	for _, a := range order {
		s := chain[a]
		c.chain = append(c.chain, s)
		for k := range a.kids {
			if in := chain[k]; in != nil {
				s.kids = append(s.kids, in)
			} else if !s.others {
				s.kids = append(s.kids, outside(k))
			}
		}
	}
	return c
}

// outside makes the seat of a layer that is not in the chain: all its names are
// others'.
func outside(l *Layer) *seat {
	s := &seat{mapID: l.mapID, others: l.names > 0}
	if !s.others {
		for k := range l.kids {
			s.kids = append(s.kids, outside(k))
		}
	}
	return s
}

// page counts one page.
func (c *census) page(pageNo uint32, u *Usage) error {
	var seen mask // what is counted here, of all layers
	for _, s := range c.chain {
		s.own, s.wanted, s.held = nil, mask{}, mask{}
		if s.mine {
			s.wanted = mask{}.not()
		}
		for _, k := range s.kids {
			if k.pages != nil {
				s.wanted = s.wanted.or(k.passes(k.wanted))
			}
		}
		if s.pages.Contains(pageNo) {
			o, err := c.d.ownPage(s.mapID, pageNo)
			if err != nil {
				return err
			}
			s.own, s.held = o, o.data.and(s.wanted)
		}
		seen = seen.or(s.held)
	}
	if seen.empty() {
		return nil
	}
	for _, s := range c.chain {
		if err := c.others(s, pageNo, seen); err != nil {
			return err
		}
		u.Logical += uint64(s.held.count())
		u.Exclusive += uint64(s.held.minus(s.elsewise).count())
	}
	return nil
}

// others finds what of m is seen through a layer of the chain by what is not
// counted. Its children in the chain are done.
func (c *census) others(s *seat, pageNo uint32, m mask) error {
	s.elsewise = mask{}
	if s.others {
		s.elsewise = m
		return nil
	}
	for _, k := range s.kids {
		if k.pages != nil {
			s.elsewise = s.elsewise.or(k.passes(k.elsewise))
			continue
		}
		more, err := c.below(k, pageNo, m.minus(s.elsewise))
		if err != nil {
			return err
		}
		s.elsewise = s.elsewise.or(more)
	}
	return nil
}

// below returns what of m, the entries of an ancestor, is seen by s, which is
// outside the chain, or by what is on it.
func (c *census) below(s *seat, pageNo uint32, m mask) (seen mask, err error) {
	if m.empty() {
		return mask{}, nil
	}
	o, err := c.d.ownPage(s.mapID, pageNo)
	if err != nil {
		return mask{}, err
	}
	if m = m.minus(o.present); s.others {
		return m, nil
	}
	for _, k := range s.kids {
		more, err := c.below(k, pageNo, m.minus(seen))
		if err != nil {
			return mask{}, err
		}
		seen = seen.or(more)
	}
	return seen, nil
}

// passes returns what of m, the entries of an ancestor, the layer does not hide.
func (s *seat) passes(m mask) mask {
	if s.own == nil {
		return m
	}
	return m.minus(s.own.present)
}
