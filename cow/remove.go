package cow

import (
	"context"

	"github.com/slackerd/slacker/block"
)

// removeBatch is how many pages one commit of Remove drops.
const removeBatch = 512

// Remove deletes a doomed layer and returns how many blocks it held. All its
// changes are committed and nobody uses it.
func (t *Tree) Remove(ctx context.Context, l *Layer, steps Steps) (freed uint64, err error) {
	if err := steps.Flush(ctx); err != nil {
		return 0, err
	}
	t.unspan(l) // and no flat page of it is stored from now on
	m := t.mapOf(l)
	for {
		n, more, err := t.removeSome(ctx, m)
		freed += n
		if err != nil {
			return freed, err
		}
		if !more {
			break
		}
		if err := steps.pace(ctx); err != nil {
			return freed, err
		}
	}
	x := t.db.Begin()
	x.DeleteLayer(l.ID)
	x.ForgetMapCount(m)
	x.deleteFlats(l.ID)
	gone := t.forwardsTo(l.ID)
	for _, id := range gone {
		x.deleteForward(id)
	}
	if err := x.Commit(true); err != nil {
		return freed, err
	}
	t.cache.drop(l.ID, 0, ^uint32(0))
	t.Drop(l)
	t.mu.Lock()
	for _, id := range gone {
		delete(t.merged, id)
	}
	delete(t.into, l.ID)
	t.mu.Unlock()
	t.counts.Lock()
	delete(t.counts.data, m)
	t.counts.Unlock()
	return freed, nil
}

// removeSome drops up to removeBatch pages of a map.
func (t *Tree) removeSome(ctx context.Context, m MapID) (freed uint64, more bool, err error) {
	x, y := t.db.Begin(), newTally()
	var first, last []byte
	n := 0
	stop := block.Errorf(block.Internal, "enough")
	err = t.db.scan(ctx, idKey(keyPage, uint64(m)), func(k, v []byte) error {
		var p page
		if err := overlayPage(&p, k, v); err != nil {
			return err
		}
		for i := range p.addr {
			if p.addr[i] > zeroAddr {
				y.live[p.addr[i].Segment()]--
				y.data[m]--
				freed++
			}
		}
		if first == nil {
			first = append(first, k...)
		}
		last = append(last[:0], k...)
		if n++; n == removeBatch {
			return stop
		}
		return nil
	})
	if err != nil && err != stop {
		x.Discard()
		return 0, false, err
	}
	more = err == stop
	if n == 0 {
		x.Discard()
		return 0, false, nil
	}
	x.note(x.b.DeleteRange(first, append(last, 0), nil))
	return freed, more, t.commitTally(x, y, false)
}
