package cow

import "math/bits"

// mask is a set of blocks of a page.
type mask [PageBlocks / 64]uint64

func (m mask) has(i int) bool { return m[i>>6]&(1<<(i&63)) != 0 }

func (m mask) minus(o mask) mask {
	for i := range m {
		m[i] &^= o[i]
	}
	return m
}

func (m mask) and(o mask) mask {
	for i := range m {
		m[i] &= o[i]
	}
	return m
}

func (m mask) not() mask {
	for i := range m {
		m[i] = ^m[i]
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
	o, err := v.t.db.ownPage(l.mapID, v.pageNo)
	if err == nil {
		v.pages[l] = o
	}
	return o, err
}

// ownPage reads the entries that a map holds in a page.
func (d *DB) ownPage(m MapID, pageNo uint32) (*ownPage, error) {
	o := &ownPage{}
	if _, err := d.loadPage(m, pageNo, &o.page); err != nil {
		return nil, err
	}
	o.present = o.page.own
	for i := range o.page.addr {
		if o.page.addr[i] > zeroAddr {
			o.data[i>>6] |= 1 << (i & 63)
		}
	}
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
