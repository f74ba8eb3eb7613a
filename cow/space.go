package cow

import (
	"context"
	"errors"
	"math/bits"

	"github.com/RoaringBitmap/roaring/v2"
)

// mask is a set of blocks of a page.
type mask [PageBlocks / 64]uint64

func (m mask) has(i int) bool { return m[i>>6]&(1<<(i&63)) != 0 }

func (m mask) minus(o mask) mask {
	for i := range m {
		m[i] &^= o[i]
	}
	return m
}

func (m mask) or(o mask) mask {
	for i := range m {
		m[i] |= o[i]
	}
	return m
}

func (m mask) empty() bool { return m == mask{} }

func (m mask) count() (n int) {
	for _, w := range m {
		n += bits.OnesCount64(w)
	}
	return n
}

// view is one page number as all layers hold it. It is used under Tree.mu and
// sees what is committed.
type view struct {
	t      *Tree
	pageNo uint32
	pages  map[*Layer]*ownPage
}

type ownPage struct {
	page    page
	present mask // entries that are not absent
	data    mask
}

func (t *Tree) newView(pageNo uint32) *view {
	return &view{t: t, pageNo: pageNo, pages: map[*Layer]*ownPage{}}
}

func (v *view) own(l *Layer) (*ownPage, error) {
	if o := v.pages[l]; o != nil {
		return o, nil
	}
	o := &ownPage{}
	if _, err := v.t.db.loadPage(l.mapID, v.pageNo, &o.page); err != nil {
		return nil, err
	}
	o.present = o.page.own
	for i := range o.page.addr {
		if o.page.addr[i] > zeroAddr {
			o.data[i>>6] |= 1 << (i & 63)
		}
	}
	v.pages[l] = o
	return o, nil
}

// seenBelow returns which of l's entries in m some descendant of l that is
// wanted sees. It stops as soon as all are found.
func (v *view) seenBelow(l *Layer, m mask, wanted func(*Layer) bool) (seen mask, err error) {
	type visit struct {
		l *Layer
		m mask
	}
	todo := make([]visit, 0, len(l.kids))
	for k := range l.kids {
		todo = append(todo, visit{k, m})
	}
	for len(todo) > 0 {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		o, err := v.own(at.l)
		if err != nil {
			return seen, err
		}
		left := at.m.minus(o.present).minus(seen)
		if left.empty() {
			continue
		}
		if wanted(at.l) {
			seen = seen.or(left)
			if m.minus(seen).empty() {
				return seen, nil
			}
			continue
		}
		for k := range at.l.kids {
			todo = append(todo, visit{k, left})
		}
	}
	return seen, nil
}

// Usage counts blocks.
type Usage struct {
	Logical   uint64 // data blocks that one of the layers sees
	Exclusive uint64 // of these, seen by no other named layer: what removing them all would free
}

// Usage counts what the named layers ls hold together. Changes that are not
// committed do not count. It takes time in proportion to the pages that they
// and their ancestors hold.
func (t *Tree) Usage(ctx context.Context, ls []*Layer) (u Usage, err error) {
	inSet := map[*Layer]int{}
	for _, l := range ls {
		inSet[l]++
	}
	chain, pages, err := t.chainPages(ctx, ls)
	if err != nil {
		return u, err
	}
	for it := pages.Iterator(); it.HasNext(); {
		if err := ctx.Err(); err != nil {
			return u, err
		}
		if err := t.usagePage(it.Next(), chain, inSet, &u); err != nil {
			return u, err
		}
	}
	return u, nil
}

// chainPages returns the layers ls with their ancestors, and the pages that they
// hold, all as of one moment: a layer merge moves pages from map to map, and
// would hide them from a walk of one map after the other.
func (t *Tree) chainPages(ctx context.Context, ls []*Layer) (chain map[*Layer]bool, pages *roaring.Bitmap, err error) {
	chain, pages = map[*Layer]bool{}, roaring.New()
	var maps []MapID
	t.mu.RLock()
	for _, l := range ls {
		for a := l; a != nil && !chain[a]; a = a.parent {
			chain[a] = true
			maps = append(maps, a.mapID)
		}
	}
	d := &DB{pdb: t.db.pdb, view: t.db.pdb.NewSnapshot()}
	t.mu.RUnlock()
	defer func() { err = errors.Join(err, d.view.Close()) }()
	for _, m := range maps {
		own, err := d.pagesOf(ctx, m)
		if err != nil {
			return nil, nil, err
		}
		pages.AddMany(own)
	}
	return chain, pages, nil
}

func (t *Tree) usagePage(pageNo uint32, chain map[*Layer]bool, inSet map[*Layer]int, u *Usage) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	mine := func(l *Layer) bool { return inSet[l] > 0 }
	others := func(l *Layer) bool { return l.names > inSet[l] }
	v := t.newView(pageNo)
	for a := range chain {
		o, err := v.own(a)
		if err != nil {
			return err
		}
		held, err := v.seen(a, o.data, mine)
		if err != nil {
			return err
		}
		if held.empty() {
			continue
		}
		shared, err := v.seen(a, held, others)
		if err != nil {
			return err
		}
		u.Logical += uint64(held.count())
		u.Exclusive += uint64(held.minus(shared).count())
	}
	return nil
}

// seen is seenBelow with l itself.
func (v *view) seen(l *Layer, m mask, wanted func(*Layer) bool) (mask, error) {
	if m.empty() || wanted(l) {
		return m, nil
	}
	return v.seenBelow(l, m, wanted)
}
