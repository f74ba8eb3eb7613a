package cow

import (
	"context"

	"github.com/slackerd/slacker/block"
)

// Sweep drops from an unnamed layer with several children the data that no
// named layer sees, and returns how many blocks that were.
func (t *Tree) Sweep(ctx context.Context, l *Layer, steps Steps) (freed uint64, err error) {
	if err := steps.Flush(ctx); err != nil {
		return 0, err
	}
	pages, err := t.ownPages(ctx, t.mapOf(l))
	if err != nil {
		return 0, err
	}
	for _, n := range pages {
		if err := steps.pace(ctx); err != nil {
			return freed, err
		}
		k, err := t.sweepPage(l, n)
		freed += k
		if err != nil {
			return freed, err
		}
	}
	return freed, nil
}

func (t *Tree) sweepPage(l *Layer, n uint32) (freed uint64, err error) {
	defer l.Lock(block.Index(n)*PageBlocks, PageBlocks).Unlock()
	node := t.cache.get(nodeKey{l.ID, n})
	defer t.cache.put(node)
	node.mu.Lock()
	defer node.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	v := t.newView(n)
	own, err := v.own(l)
	if err != nil {
		return 0, err
	}
	seen, err := v.seenBelow(l, own.data, func(k *Layer) bool { return k.names > 0 })
	if err != nil {
		return 0, err
	}
	dead := own.data.minus(seen)
	if dead.empty() {
		return 0, nil
	}
	x, y := t.db.Begin(), newTally()
	left := own.page
	for i := range left.addr {
		if dead.has(i) {
			y.live[left.addr[i].Segment()]--
			y.data[l.mapID]--
			left.addr[i], left.sum[i] = 0, 0
			freed++
		}
	}
	x.setPage(l.mapID, n, &left)
	node.unload()
	return freed, t.commitTally(x, y, false)
}
