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
		v.later(r)
	case v.awaits(r, from, to):
	default:
		v.complete(b, r, from*block.Size, to*block.Size)
	}
	return true
}

// awaits lets a read wait if blocks from to to of it, which are missing, are being
// fetched.
func (v *Volume) awaits(r *nbdclient.Request, from, to int) bool {
	first := r.OffBytes / block.Size
	return from < to && v.prefetch != nil && v.prefetch.await(r, first+uint64(from), first+uint64(to))
}

// later goes on with a read elsewhere, where it may wait for the disk.
func (v *Volume) later(r *nbdclient.Request) {
	v.closing.Lock()
	defer v.closing.Unlock()
	if v.closed {
		go r.Done(r, block.Errorf(block.Unavailable, "the volume is closed"))
		return
	}
	v.running.Go(func() { v.readSlowly(r) })
}

func (v *Volume) readSlowly(r *nbdclient.Request) {
	from, to, ok := v.base.Read(r.Data, r.OffBytes, false)
	if !ok {
		from, to = 0, len(r.Data)/block.Size
	}
	if v.awaits(r, from, to) {
		return
	}
	b := v.session.NewBatch()
	v.complete(b, r, from*block.Size, to*block.Size)
	b.Send()
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
	if v.prefetch != nil && !v.distance.isKnown() {
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
