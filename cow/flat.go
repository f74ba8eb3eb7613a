package cow

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/slackerd/slacker/block"
)

// Flat pages: see the package comment.

const (
	// flattenAfter is how many layers a walk may find something in before what
	// it found is stored.
	flattenAfter = 3
	// maxFlatJobs bounds how many pages wait to be stored; more are left for
	// another time.
	maxFlatJobs = 1024
	// flatBatch is how many pages one commit stores.
	flatBatch = 64
)

// flatHint says what is known of a flat page that a layer may have.
type flatHint int

const (
	flatUnknown flatHint = iota
	flatAbsent
	flatThere
)

// flattener stores flat pages in the background.
type flattener struct {
	may func() bool // whether the store may grow

	mu      sync.Mutex
	jobs    []flatJob
	running bool

	// gate is held while pages are stored, and while some are dropped: what was
	// resolved before that is void, which is what epoch tells.
	gate  sync.Mutex
	epoch atomic.Uint64
}

type flatJob struct {
	layer  *Layer
	pageNo uint32
	p      *page // not changed any more
	epoch  uint64
}

// FlattenWhile sets who is asked whether the store may grow by flat pages. It
// comes before the first read.
func (t *Tree) FlattenWhile(may func() bool) { t.flats.may = may }

// wantFlat has a page stored as the flat page of a sealed layer that holds some of
// it, if loading it took many layers and everything in it is committed. It
// reports whether that will be tried. The page is not changed any more; epoch is
// from before it was resolved.
func (t *Tree) wantFlat(j flatJob, hops int, settled bool) bool {
	f := &t.flats
	if hops <= flattenAfter || !settled || j.layer == nil || !t.db.takesFlats() || f.may != nil && !f.may() {
		return false
	}
	t.book.mu.Lock() // Close waits for whoever runs
	defer t.book.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.book.closed || len(f.jobs) == maxFlatJobs {
		return false
	}
	f.jobs = append(f.jobs, j)
	if !f.running {
		f.running = true
		t.book.done.Add(1)
		go t.flatten()
	}
	return true
}

// flatten stores pages until none waits.
func (t *Tree) flatten() {
	defer t.book.done.Done()
	f := &t.flats
	for {
		f.mu.Lock()
		n := min(len(f.jobs), flatBatch)
		if n == 0 || t.book.ctx.Err() != nil {
			f.jobs, f.running = nil, false
			f.mu.Unlock()
			return
		}
		jobs := f.jobs[:n:n]
		f.jobs = f.jobs[n:]
		f.mu.Unlock()
		// A failure to write shows at the commits that matter; here it means that
		// the walk is as long again.
		if stored, err := t.storeFlats(jobs); err == nil {
			t.noteFlats(stored)
		}
	}
}

// storeFlats stores the pages whose layers are still there, and returns these. It
// is not synced: a flat page is never newer than what the maps hold, since it
// follows on it in Pebble's log.
func (t *Tree) storeFlats(jobs []flatJob) (stored []flatJob, err error) {
	f := &t.flats
	f.gate.Lock()
	defer f.gate.Unlock()
	t.mu.RLock() // a layer that goes takes its flat pages along
	defer t.mu.RUnlock()
	x := t.db.Begin()
	for _, j := range jobs {
		if t.layers[j.layer.ID] == j.layer && !j.layer.moving && j.epoch == f.epoch.Load() {
			key := flatKey(j.layer.ID, j.pageNo)
			if v := j.p.encode(key, func(int) bool { return true }); v != nil {
				x.note(x.b.Set(key, v, nil))
				stored = append(stored, j)
			}
		}
	}
	return stored, x.Commit(false)
}

// noteFlats tells the spans, and the pages in memory, of flat pages.
func (t *Tree) noteFlats(jobs []flatJob) {
	for _, j := range jobs {
		t.mu.Lock()
		if s := j.layer.span; s != nil {
			s.index.setFlat(j.pageNo, j.layer.spanAt)
		}
		t.mu.Unlock()
		if n := t.cache.peek(nodeKey{j.layer.ID, j.pageNo}); n != nil {
			n.mu.Lock()
			n.hops = min(n.hops, 1)
			n.mu.Unlock()
			t.cache.put(n)
		}
	}
}

// underFlat completes p from a's flat page. It reports false, with p as it was,
// when there is none that can be used: one that is damaged, or names a segment in
// which nothing lives, is as good as none.
func (w *walk) underFlat(a *Layer) bool {
	d := w.t.db
	d.gets.Add(1)
	key := flatKey(a.ID, w.pageNo)
	v, closer, err := d.reader().Get(key)
	if err != nil {
		return false
	}
	defer func() { _ = closer.Close() }() // what was read is verified
	if !w.t.freshFlat(key, v) {
		w.hops += flattenAfter // so that it is stored anew
		return false
	}
	given, err := underlayPage(w.p, key, v, false)
	if err != nil {
		return false
	}
	w.absent -= given
	w.met(a)
	return true
}

// freshFlat verifies a flat page, and that all segments it names have life.
func (t *Tree) freshFlat(key, v []byte) bool {
	rs, err := openPage(key, v)
	if err != nil {
		return false
	}
	t.counts.Lock()
	defer t.counts.Unlock()
	last := block.SegmentID(0)
	for rs.next() {
		if rs.kind == runData && rs.addr.Segment() != last {
			if last = rs.addr.Segment(); t.counts.live[last] <= 0 {
				return false
			}
		}
	}
	return rs.err == nil
}

// dropFlats removes the flat pages that l's walk of a page may meet and that
// have the stale entry.
func (t *Tree) dropFlats(l *Layer, pageNo uint32, at int, stale Entry) error {
	f := &t.flats
	f.gate.Lock()
	defer f.gate.Unlock()
	f.epoch.Add(1)
	t.mu.RLock()
	defer t.mu.RUnlock()
	x := t.db.Begin()
	for a, flat := l.skip(pageNo); a != nil; a, flat = a.parent.skip(pageNo) {
		if flat == flatAbsent {
			continue
		}
		key := flatKey(a.ID, pageNo)
		v, err := t.db.get(key)
		if err != nil && !block.Is(err, block.Corrupt) {
			x.Discard()
			return err
		}
		var p page
		if err != nil || v != nil && (overlayPage(&p, key, v) != nil || p.entry(at) == stale) {
			x.note(x.b.Delete(key, nil))
		}
	}
	if x.b.Empty() {
		x.Discard()
		return nil
	}
	return x.Commit(false)
}

// deleteFlats removes all flat pages of a layer.
func (t *Tx) deleteFlats(l block.LayerID) {
	first := idKey(keyFlat, uint64(l))
	t.note(t.b.DeleteRange(first, prefixEnd(first), nil))
}

// flatsOf lists the flat pages of a layer.
func (d *DB) flatsOf(ctx context.Context, l block.LayerID) (pages []uint32, err error) {
	err = d.scan(ctx, idKey(keyFlat, uint64(l)), func(k, _ []byte) error {
		if _, n, ok := parseFlatKey(k); ok {
			pages = append(pages, n)
		}
		return nil
	})
	return pages, err
}
