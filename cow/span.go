package cow

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
)

// A span says which layers of a run of sealed layers may hold a page, so that
// a walk visits those and not every layer of the chain. Spans are learned in
// the background from the store's keys, when walks had to ask in vain, and kept
// in memory within a bound; a layer in no span is asked itself. Nothing of them
// is stored.
//
// A span is right (invariant M7) because the pages of a sealed layer are fixed
// once its changes are committed, but for merges, which take the two layers out
// of their spans first. What a sweep removes since stays named, and costs a
// lookup.
type span struct {
	index  *spanIndex
	base   uint32   // position in index of layers[0]
	layers []*Layer // each the parent of the one before
	used   atomic.Bool
	slot   int // its place in spanBook.spans
}

// spanIndex is the pages by position: page<<32 | position<<1 | 1 if the layer
// there has the page flat; in order. Spans that one was cut into share it.
type spanIndex struct {
	pairs []uint64
	spans int
}

func pair(pageNo, at uint32) uint64 { return uint64(pageNo)<<32 | uint64(at)<<1 }

func pairPage(p uint64) uint32 { return uint32(p >> 32) }

func pairAt(p uint64) uint32 { return uint32(p) >> 1 }

const (
	// learnAfter is how many layers a walk asks in vain before they are learned.
	learnAfter = 4
	// spanShare is the part of the page cache's bound that spans may take, and
	// layerShare that of all spans that one layer may.
	spanShare, layerShare = 8, 8
	// spanBytes and spanLayerBytes are what a span, and a layer in it, take
	// beside the pages.
	spanBytes, spanLayerBytes = 192, 8
)

// spanBook keeps the account of all spans. Under Tree.mu, but for what says
// otherwise.
type spanBook struct {
	spans []*span
	bytes int64
	limit int64
	hand  int

	mu     sync.Mutex // guards closed against a learner that starts
	closed bool
	busy   atomic.Bool // someone learns
	done   sync.WaitGroup
	ctx    context.Context
	stop   context.CancelFunc
}

func (x *spanIndex) bytes() int64 { return int64(len(x.pairs)) * 8 }

// find returns the first position from at on whose layer may hold the page, and
// whether that has it flat.
func (x *spanIndex) find(pageNo, at uint32) (pos uint32, flat flatHint, ok bool) {
	i, _ := slices.BinarySearch(x.pairs, pair(pageNo, at))
	if i == len(x.pairs) || pairPage(x.pairs[i]) != pageNo {
		return 0, flatUnknown, false
	}
	flat = flatAbsent
	if x.pairs[i]&1 != 0 {
		flat = flatThere
	}
	return pairAt(x.pairs[i]), flat, true
}

// setFlat notes that the layer at a position has the page flat. Called with
// Tree.mu held for writing.
func (x *spanIndex) setFlat(pageNo, at uint32) {
	p := pair(pageNo, at)
	if i, _ := slices.BinarySearch(x.pairs, p); i < len(x.pairs) && x.pairs[i] == p {
		x.pairs[i] |= 1
	}
}

// skip returns the layer nearest to a, itself or an ancestor, that may hold the
// page and that the spans know of, or else the first that no span knows; and what
// is known of its flat page. Called under Tree.mu.
func (a *Layer) skip(pageNo uint32) (*Layer, flatHint) {
	for a != nil && a.span != nil {
		s := a.span
		if !s.used.Load() {
			s.used.Store(true)
		}
		at, flat, ok := s.index.find(pageNo, a.spanAt)
		if ok && at-s.base < uint32(len(s.layers)) {
			return s.layers[at-s.base], flat
		}
		a = s.layers[len(s.layers)-1].parent
	}
	return a, flatUnknown
}

// cut splits the span of l so that it ends before l, and takes l out. What
// follows l becomes a span of its own. Called with Tree.mu held for writing, as
// are all changes of spans.
func (t *Tree) cut(l *Layer) {
	s := l.span
	if s == nil {
		return
	}
	l.span = nil
	i := l.spanAt - s.base
	if tail := s.layers[i+1:]; len(tail) > 0 {
		t.addSpan(&span{index: s.index, base: l.spanAt + 1, layers: tail})
	}
	t.truncate(s, i)
}

func (t *Tree) addSpan(s *span) {
	b := &t.book
	for _, l := range s.layers {
		l.span = s
	}
	if s.index.spans++; s.index.spans == 1 {
		b.bytes += s.index.bytes()
	}
	b.bytes += spanBytes + int64(len(s.layers))*spanLayerBytes
	s.used.Store(true)
	s.slot = len(b.spans)
	b.spans = append(b.spans, s)
}

// truncate keeps the first n layers of a span; the others are in no span of
// this kind any more. With none it is gone.
func (t *Tree) truncate(s *span, n uint32) {
	b := &t.book
	for _, l := range s.layers[n:] {
		if l.span == s {
			l.span = nil
		}
	}
	b.bytes -= int64(len(s.layers)-int(n)) * spanLayerBytes
	s.layers = s.layers[:n:n]
	if n > 0 {
		return
	}
	if s.index.spans--; s.index.spans == 0 {
		b.bytes -= s.index.bytes()
	}
	b.bytes -= spanBytes
	last := len(b.spans) - 1
	b.spans[s.slot] = b.spans[last]
	b.spans[s.slot].slot = s.slot
	b.spans[last] = nil
	b.spans = b.spans[:last]
}

// unspan takes a layer out of the spans for as long as its pages may change.
func (t *Tree) unspan(ls ...*Layer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range ls {
		t.cut(l)
		l.moving = true
		l.shape++
	}
	t.book.makeRoom(t, 0)
}

// settle ends unspan.
func (t *Tree) settle(ls ...*Layer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range ls {
		l.moving = false
	}
}

// makeRoom drops spans that were not used lately, and reports whether n bytes
// fit then.
func (b *spanBook) makeRoom(t *Tree, n int64) bool {
	for range min(2*len(b.spans), 512) {
		if b.bytes+n <= b.limit {
			return true
		}
		if b.hand >= len(b.spans) {
			b.hand = 0
		}
		if s := b.spans[b.hand]; s.used.Swap(false) {
			b.hand++
		} else {
			t.truncate(s, 0)
		}
	}
	return b.bytes+n <= b.limit
}

// learnable reports whether the pages of a sealed layer are settled and may be
// learned. Called under Tree.mu.
func (t *Tree) learnable(l *Layer) bool {
	return l.span == nil && !l.moving && !l.big && l.newest.Load() <= t.committed.Load()
}

// wantSpans has the chain of the sealed layer l learned in the background,
// unless something else is being learned.
func (t *Tree) wantSpans(l *Layer) {
	b := &t.book
	if !b.busy.CompareAndSwap(false, true) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		b.busy.Store(false)
		return
	}
	b.done.Add(1)
	go func() {
		defer b.done.Done()
		defer b.busy.Store(false)
		// A failure to read shows at the reads themselves; here it means no span.
		_ = t.learn(b.ctx, l)
	}()
}

// Close ends what the tree does in the background. The DB may be closed then.
func (t *Tree) Close() {
	b := &t.book
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.stop()
	b.done.Wait()
}

// run is a run of layers on its way to become a span.
type run struct {
	layers []*Layer
	shapes []uint64
	pairs  []uint64
}

// learn makes spans of the layers from l on down that are in none. A span that
// follows on them is taken in if it is not much longer, so that a chain that
// grows has few spans, and each of its layers is rewritten a few times.
func (t *Tree) learn(ctx context.Context, l *Layer) (err error) {
	steps, d := t.surveyChain(l)
	defer func() { err = errors.Join(err, d.view.Close()) }()
	var r run
	for i := 0; i < len(steps); {
		s := &steps[i]
		n := 1
		switch {
		case s.index != nil:
			for i+n < len(steps) && steps[i+n].span == s.span {
				n++
			}
			if len(r.layers) > 0 && n <= 2*len(r.layers) {
				t.mu.RLock()
				r.take(steps[i : i+n])
				t.mu.RUnlock()
			} else {
				r = t.publish(r)
			}
		case !s.learnable || !t.scanInto(ctx, d, &r, s, &err):
			r = t.publish(r)
		}
		if err != nil {
			return err
		}
		i += n
	}
	t.publish(r)
	return nil
}

// step is one layer of a chain as surveyChain met it.
type step struct {
	layer     *Layer
	mapID     MapID
	shape     uint64
	learnable bool
	span      *span
	index     *spanIndex
	at        uint32
}

// surveyChain returns the chain of l, with a view of the store of the same moment.
func (t *Tree) surveyChain(l *Layer) (steps []step, d *DB) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for a := l; a != nil; a = a.parent {
		s := step{layer: a, mapID: a.mapID, shape: a.shape, learnable: t.learnable(a), span: a.span, at: a.spanAt}
		if a.span != nil {
			s.index = a.span.index
		}
		steps = append(steps, s)
	}
	return steps, t.db.snapshot()
}

// scanInto reads the pages of one layer into the run. It reports whether the
// layer is in it now: one with too many pages is left out for good.
func (t *Tree) scanInto(ctx context.Context, d *DB, r *run, s *step, errp *error) bool {
	pages, err := d.pagesUpTo(ctx, s.mapID, int(t.book.limit/layerShare/8))
	if err != nil {
		*errp = err
		return false
	}
	if pages == nil {
		t.mu.Lock()
		s.layer.big = s.layer.mapID == s.mapID
		t.mu.Unlock()
		return false
	}
	if int64(len(r.pairs)+len(pages))*8 > t.book.limit/2 {
		*r = t.publish(*r)
	}
	flats, err := d.flatsOf(ctx, s.layer.ID)
	if err != nil {
		*errp = err
		return false
	}
	at := uint32(len(r.layers))
	for _, n := range pages {
		p := pair(n, at)
		if _, ok := slices.BinarySearch(flats, n); ok {
			p |= 1
		}
		r.pairs = append(r.pairs, p)
	}
	r.layers, r.shapes = append(r.layers, s.layer), append(r.shapes, s.shape)
	return true
}

// take adds the rest of a span, from the first of the steps on, to the run. Called
// under Tree.mu.
func (r *run) take(steps []step) {
	at, from := uint64(len(r.layers)), uint64(steps[0].at)
	for _, p := range steps[0].index.pairs {
		if pos := uint64(pairAt(p)); pos >= from && pos < from+uint64(len(steps)) {
			r.pairs = append(r.pairs, p-from<<1+at<<1)
		}
	}
	for i := range steps {
		r.layers, r.shapes = append(r.layers, steps[i].layer), append(r.shapes, steps[i].shape)
	}
}

// publish makes a span of the run, if all its layers still are what they were,
// and returns an empty one.
func (t *Tree) publish(r run) run {
	if len(r.layers) == 0 {
		return run{}
	}
	slices.Sort(r.pairs)
	x := &spanIndex{pairs: slices.Clip(r.pairs)}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, l := range r.layers {
		if t.layers[l.ID] != l || l.shape != r.shapes[i] || l.moving {
			return run{}
		}
	}
	if !t.book.makeRoom(t, x.bytes()+spanBytes+int64(len(r.layers))*spanLayerBytes) {
		return run{}
	}
	for i, l := range r.layers {
		if l.span != nil {
			t.truncate(l.span, l.spanAt-l.span.base)
		}
		l.spanAt = uint32(i)
	}
	t.addSpan(&span{index: x, layers: r.layers})
	return run{}
}
