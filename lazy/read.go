package lazy

import (
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
)

// Batch is [nbdclient.Batch] with the cache before it.
type Batch struct {
	volume *Volume
	inner  *nbdclient.Batch
}

// NewBatch returns a batch for one goroutine.
func (v *Volume) NewBatch() *Batch { return &Batch{v, v.session.NewBatch()} }

// Send sends what is held back.
func (b *Batch) Send() { b.inner.Send() }

// Await waits until file can be read from or a reply has come.
func (b *Batch) Await(file int) { b.inner.Await(file) }

// Release is called when the batch is not awaited any more.
func (b *Batch) Release() { b.inner.Release() }

// Submit starts r. A read of which all is in the cache is done when it returns.
func (b *Batch) Submit(r *nbdclient.Request) {
	switch r.Op {
	case nbdclient.OpWrite:
		b.volume.touch(r.OffBytes, uint64(len(r.Data)))
	case nbdclient.OpRead:
		if b.volume.read(b.inner, r) {
			return
		}
	}
	b.inner.Submit(r)
}

// read is a read of which the server is asked some.
type read struct {
	volume *Volume
	inner  nbdclient.Request
	outer  *nbdclient.Request
	began  time.Time // set while it is not known how far the server is
}

// read starts a read of whole blocks, or reports that it is not one.
func (v *Volume) read(b *nbdclient.Batch, r *nbdclient.Request) bool {
	n := uint64(len(r.Data))
	if n == 0 || n%block.Size != 0 || r.OffBytes%block.Size != 0 || r.OffBytes/block.Size+n/block.Size > v.clean.blocks || v.session.Lost() {
		v.stats.passed.Add(n)
		return false
	}
	first := r.OffBytes / block.Size
	stop, clean := v.clean.run(first, first+n/block.Size)
	if !clean || stop < first+n/block.Size {
		v.stats.passed.Add(n)
		v.ask(b, r, 0, len(r.Data))
		return true
	}
	v.recorder.note(first, stop)
	from, to, ok := v.base.Read(r.Data, r.OffBytes, true)
	switch {
	case !ok:
		v.later(r, true)
	case v.taken(r, from, to):
	default:
		v.complete(b, r, from*block.Size, to*block.Size)
	}
	return true
}

// taken lets the fetcher have a read of which blocks from to to are missing.
func (v *Volume) taken(r *nbdclient.Request, from, to int) bool {
	first := r.OffBytes / block.Size
	return from < to && v.fetcher != nil && v.fetcher.take(r, first+uint64(from), first+uint64(to))
}

// later goes on with a read elsewhere, where it may wait for the disk; fetch: what
// is missing may be fetched.
func (v *Volume) later(r *nbdclient.Request, fetch bool) {
	v.background(func() { v.readSlowly(r, fetch) }, func() {
		go r.Done(r, block.Errorf(block.Unavailable, "the volume is closed"))
	})
}

// background runs fn, for which Close waits; late once it waits.
func (v *Volume) background(fn, late func()) {
	v.closing.Lock()
	if !v.closed {
		v.running.Go(fn)
		v.closing.Unlock()
		return
	}
	v.closing.Unlock()
	late()
}

func (v *Volume) readSlowly(r *nbdclient.Request, fetch bool) {
	from, to, ok := v.base.Read(r.Data, r.OffBytes, false)
	if !ok {
		from, to = 0, len(r.Data)/block.Size
	}
	if fetch && v.taken(r, from, to) {
		return
	}
	b := v.session.NewBatch()
	v.complete(b, r, from*block.Size, to*block.Size)
	b.Send()
}

// finish ends a read that waited, or reads plainly what did not come.
func (v *Volume) finish(w *waiter) {
	if w.short || v.session.Lost() {
		v.later(w.r, false)
		return
	}
	v.stats.hit.Add(uint64(len(w.r.Data)) - w.asked*block.Size)
	v.stats.miss.Add(w.asked * block.Size)
	w.r.Done(w.r, nil)
}

// complete asks the server for the bytes [from, to) of a read, the others of
// which are there.
func (v *Volume) complete(b *nbdclient.Batch, r *nbdclient.Request, from, to int) {
	v.stats.hit.Add(uint64(len(r.Data) - (to - from)))
	v.stats.miss.Add(uint64(to - from))
	if from == to {
		r.Done(r, nil)
		return
	}
	v.ask(b, r, from, to)
}

func (v *Volume) ask(b *nbdclient.Batch, r *nbdclient.Request, from, to int) {
	q := v.reads.Get().(*read)
	q.outer = r
	q.inner.Op, q.inner.OffBytes, q.inner.Data = nbdclient.OpRead, r.OffBytes+uint64(from), r.Data[from:to]
	q.began = time.Time{}
	if v.fetcher != nil && !v.distance.isKnown() {
		q.began = time.Now()
	}
	b.Submit(&q.inner)
}

// done keeps what has come, as far as it is clean (Z2), and ends the read.
func (q *read) done(in *nbdclient.Request, err error) {
	v, r := q.volume, q.outer
	if err == nil && !q.began.IsZero() {
		v.distance.sample(time.Since(q.began))
	}
	if err == nil {
		first := in.OffBytes / block.Size
		end := first + uint64(len(in.Data))/block.Size
		for at := first; at < end; {
			stop, clean := v.clean.run(at, end)
			if clean {
				v.filler.offer(in.Data[(at-first)*block.Size:(stop-first)*block.Size], at*block.Size)
			}
			at = stop
		}
	}
	q.outer, in.Data = nil, nil
	v.reads.Put(q)
	r.Done(r, err)
}
