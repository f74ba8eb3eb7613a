package cow

import (
	"context"
	"errors"
	"math"

	"github.com/cockroachdb/pebble/v2"
	"github.com/slackerd/slacker/block"
)

// Audit is everything that is committed, as of one moment. What it shows does
// not change while the store goes on. It holds back Pebble's own upkeep, so it
// is for the checker, which closes it soon, and for nothing else.
type Audit struct {
	d       *DB
	catalog *Catalog
}

// Audit begins an audit. Close ends it.
func (t *Tree) Audit(ctx context.Context) (*Audit, error) {
	d := t.db.snapshot()
	c, err := d.LoadCatalog(ctx)
	if err != nil {
		return nil, errors.Join(err, d.view.Close())
	}
	return &Audit{d: d, catalog: c}, nil
}

// Close ends the audit.
func (a *Audit) Close() error { return block.Wrap(block.IO, a.d.view.Close(), "end audit") }

// Catalog is everything but the pages. The caller must not change it.
func (a *Audit) Catalog() *Catalog { return a.catalog }

// Pages calls fn for every page of a map, in order, with its number and its
// entries, absent ones included, or with why it does not decode. The entries
// are valid during the call.
func (a *Audit) Pages(ctx context.Context, m MapID, fn func(pageNo uint32, es *[PageBlocks]Entry, bad error) error) error {
	var es [PageBlocks]Entry
	return a.d.scan(ctx, idKey(keyPage, uint64(m)), func(k, v []byte) error {
		var p page
		_, n, ok := parsePageKey(k)
		if !ok {
			return fn(math.MaxUint32, nil, block.Errorf(block.Corrupt, "extent map: map %d has a page key of %d bytes, want %d", m, len(k), pageKeyLen))
		}
		if err := overlayPage(&p, k, v); err != nil {
			return fn(n, nil, err)
		}
		for i := range es {
			es[i] = p.entry(i)
		}
		return fn(n, &es, nil)
	})
}

// Page reads one page of a map.
func (a *Audit) Page(m MapID, pageNo uint32, es *[PageBlocks]Entry) error {
	var p page
	if _, err := a.d.loadPage(m, pageNo, &p); err != nil {
		return err
	}
	for i := range es {
		es[i] = p.entry(i)
	}
	return nil
}

// Maps lists the maps that have pages, in order, whether a layer has them or
// not.
func (a *Audit) Maps() (maps []MapID, err error) {
	prefix := []byte{keyPage}
	it, err := a.d.reader().NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: prefixEnd(prefix)})
	if err != nil {
		return nil, readError(err)
	}
	for ok := it.First(); ok; {
		m, _, whole := parsePageKey(it.Key())
		if !whole {
			return maps, errors.Join(block.Errorf(block.Corrupt, "extent map: page key of %d bytes, want %d", len(it.Key()), pageKeyLen), it.Close())
		}
		maps = append(maps, m)
		if m == math.MaxUint64 {
			break
		}
		ok = it.SeekGE(idKey(keyPage, uint64(m)+1))
	}
	if err := it.Close(); err != nil {
		return maps, readError(err)
	}
	return maps, nil
}

// Own returns the committed own entry of a block in the layer of that number,
// or in the one that it was merged into, and that layer; a nil layer when what
// it held is gone. It looks at the store as it is now.
func (t *Tree) Own(id block.LayerID, i block.Index) (Entry, *Layer, error) {
	l := t.Layer(id)
	if l == nil {
		return Entry{}, nil, nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	var p page
	if _, err := t.db.loadPage(l.mapID, uint32(i/PageBlocks), &p); err != nil {
		return Entry{}, l, err
	}
	return p.entry(int(i % PageBlocks)), l, nil
}
