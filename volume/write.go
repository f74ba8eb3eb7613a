package volume

import (
	"context"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
	"github.com/slackerd/slacker/segment"
)

// zeroChunk bounds how many blocks one step of Trim or WriteZeroes covers, and
// so how long it holds their range.
const zeroChunk = 64 * cow.PageBlocks

// skipBytes is from how many bytes on a range is asked for pages that hold
// nothing, before it is looked at page by page.
const skipBytes = 8 * cow.PageBlocks * block.Size

var zeroBlock [block.Size]byte

// WriteAt writes p. With fua it is durable on return.
func (d *Device) WriteAt(ctx context.Context, p []byte, offBytes uint64, fua bool) error {
	if len(p) > 0 {
		if err := d.change(ctx, offBytes, uint64(len(p)), func(w *writer) error { return w.write(p, offBytes) }); err != nil {
			return err
		}
	}
	return d.fua(ctx, fua)
}

// Trim makes the range read as zeroes and gives its space back.
func (d *Device) Trim(ctx context.Context, offBytes, lengthBytes uint64, fua bool) error {
	return d.WriteZeroes(ctx, offBytes, lengthBytes, false, fua)
}

// WriteZeroes makes the range read as zeroes. A thin volume has no space to
// keep allocated, so noHole changes nothing.
func (d *Device) WriteZeroes(ctx context.Context, offBytes, lengthBytes uint64, _ /* noHole */, fua bool) error {
	for lengthBytes > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := d.skipEmpty(ctx, offBytes, lengthBytes)
		if err != nil {
			return err
		}
		offBytes, lengthBytes = offBytes+n, lengthBytes-n
		n = min(lengthBytes, zeroChunk*block.Size-offBytes%block.Size)
		if n == 0 {
			break
		}
		if err := d.change(ctx, offBytes, n, func(w *writer) error { return w.zero(offBytes, n) }); err != nil {
			return err
		}
		offBytes, lengthBytes = offBytes+n, lengthBytes-n
	}
	return d.fua(ctx, fua)
}

// skipEmpty returns how many of the first bytes of the range are known to be zero,
// without looking at each page of them.
func (d *Device) skipEmpty(ctx context.Context, offBytes, lengthBytes uint64) (uint64, error) {
	if lengthBytes < skipBytes {
		return 0, nil
	}
	if err := d.writable(offBytes); err != nil {
		return 0, err
	}
	l, err := d.enter()
	if err != nil {
		return 0, err
	}
	defer d.leave()
	sp := spanOf(offBytes, lengthBytes)
	defer l.Lock(sp.first, sp.count).Unlock()
	if d.fenced.Load() {
		return 0, block.Errorf(block.Fenced, "this connection was replaced by a newer one")
	}
	return d.s.empty(ctx, l, sp, offBytes, lengthBytes)
}

// empty returns how many of the first bytes of a range lie in pages that nobody
// holds anything of.
func (s *Store) empty(ctx context.Context, l *cow.Layer, sp span, offBytes, lengthBytes uint64) (uint64, error) {
	end := (uint64(sp.first) + sp.count + cow.PageBlocks - 1) / cow.PageBlocks
	next, err := s.tree.NextPage(ctx, l, uint32(sp.first/cow.PageBlocks), uint32(end))
	if at := uint64(next) * cow.PageBlocks * block.Size; err == nil && at > offBytes {
		return min(at-offBytes, lengthBytes), nil
	}
	return 0, err
}

func (d *Device) fua(ctx context.Context, fua bool) error {
	if !fua {
		return nil
	}
	return d.sync(ctx)
}

// writer is one change of a range in progress: behind the gate, with the range
// locked and its pages pinned.
type writer struct {
	s       *Store
	l       *cow.Layer
	pin     *cow.Pin
	moved   bool // only addresses change; the layer may be sealed
	waits   *block.Waits
	changes []*cow.Change
	queued  [1]*cow.Change // storage of changes in the common case
}

// change runs fn with the blocks around the range locked in order of arrival
// (V5).
// When the log has no room it lets everything go, has some made, and begins anew:
// what was written of it is written over.
func (d *Device) change(ctx context.Context, offBytes, lengthBytes uint64, fn func(*writer) error) error {
	for {
		err := d.changeOnce(ctx, offBytes, lengthBytes, fn)
		if err == nil || !block.Is(err, block.NoSpace) || !d.s.makeRoom(ctx) {
			return err
		}
	}
}

// writable returns why the device takes no writes, or nil.
func (d *Device) writable(offBytes uint64) error {
	if d.readOnly || d.infoOnly {
		return block.Errorf(block.ReadOnly, "write to %s at %d: it is read-only", d.target(), offBytes)
	}
	return d.s.Fault()
}

func (d *Device) changeOnce(ctx context.Context, offBytes, lengthBytes uint64, fn func(*writer) error) error {
	s := d.s
	if err := d.writable(offBytes); err != nil {
		return err
	}
	waits := block.WaitsOf(ctx)
	at := waits.Begin()
	if err := s.queue.room(s.Fault); err != nil {
		return err
	}
	at = waits.End(block.StageRoom, at)
	l, err := d.enter()
	if err != nil {
		return err
	}
	defer d.leave()
	sp := spanOf(offBytes, lengthBytes)
	defer l.Lock(sp.first, sp.count).Unlock()
	at = waits.End(block.StageRange, at)
	if d.fenced.Load() { // V4: while this write waited for its range
		return block.Errorf(block.Fenced, "this connection was replaced by a newer one")
	}
	pin, err := s.tree.Pin(l, sp.first, sp.count)
	waits.End(block.StagePages, at)
	if err != nil {
		return err
	}
	defer pin.Release()
	w := &writer{s: s, l: l, pin: pin, waits: waits}
	w.changes = w.queued[:0]
	return fn(w)
}

// write writes p at offBytes; blocks that it covers in part keep the rest.
func (w *writer) write(p []byte, offBytes uint64) error {
	if aligned(offBytes, uint64(len(p))) {
		return w.writeBlocks(p, block.Index(offBytes/block.Size))
	}
	sp := spanOf(offBytes, uint64(len(p)))
	buf := make([]byte, sp.count*block.Size)
	if err := w.readEdges(sp, buf); err != nil {
		return err
	}
	copy(buf[sp.head:], p)
	return w.writeBlocks(buf, sp.first)
}

// readEdges reads the first and the last block of a span.
func (w *writer) readEdges(sp span, buf []byte) error {
	if err := w.s.readBlocks(w.waits, w.l, sp.first, buf[:block.Size]); err != nil {
		return err
	}
	if sp.count == 1 {
		return nil
	}
	return w.s.readBlocks(w.waits, w.l, sp.first+block.Index(sp.count-1), buf[len(buf)-block.Size:])
}

// writeBlocks writes whole blocks. Those that are zero are not stored.
func (w *writer) writeBlocks(p []byte, first block.Index) error {
	for n := len(p) / block.Size; n > 0; {
		zero := block.IsZero(p[:block.Size])
		k := 1
		for k < n && block.IsZero(p[k*block.Size:(k+1)*block.Size]) == zero {
			k++
		}
		var err error
		if zero {
			err = w.zeroBlocks(first, uint64(k))
		} else {
			err = w.dataBlocks(p[:k*block.Size], first)
		}
		if err != nil {
			return err
		}
		p, first, n = p[k*block.Size:], first+block.Index(k), n-k
	}
	return nil
}

func (w *writer) dataBlocks(p []byte, first block.Index) error {
	sums := make([]uint32, len(p)/block.Size)
	for i := range sums {
		sums[i] = block.Checksum(first+block.Index(i), p[i*block.Size:(i+1)*block.Size])
	}
	return w.append(segment.Record{Kind: segment.Data, First: first, Count: uint32(len(sums)), Sums: sums}, p)
}

// zeroBlocks makes whole blocks zero; those that read as zeroes already cost
// nothing.
func (w *writer) zeroBlocks(first block.Index, count uint64) error {
	return w.pin.DataRuns(first, count, func(first block.Index, count uint64) error {
		return w.append(segment.Record{Kind: segment.Zero, First: first, Count: uint32(count)}, nil)
	})
}

// zero makes a range of bytes zero.
func (w *writer) zero(offBytes, lengthBytes uint64) error {
	end := offBytes + lengthBytes
	if n := min(lengthBytes, (block.Size-offBytes%block.Size)%block.Size); n > 0 {
		if err := w.write(zeroBlock[:n], offBytes); err != nil {
			return err
		}
		offBytes += n
	}
	if whole := (end - offBytes) / block.Size; whole > 0 {
		if err := w.zeroBlocks(block.Index(offBytes/block.Size), whole); err != nil {
			return err
		}
		offBytes += whole * block.Size
	}
	if offBytes < end {
		return w.write(zeroBlock[:end-offBytes], offBytes)
	}
	return nil
}

// append logs a record and applies what was logged of it, also when that was
// not all. When the log was fenced meanwhile, nothing of it: its data may not be in
// the file, and no change is taken out of the queue any more.
func (w *writer) append(r segment.Record, p []byte) error {
	r.Layer = w.l.ID
	w.changes = w.changes[:0]
	at := w.waits.Begin()
	_, err := w.s.log.Append(r, p, func(r segment.Record) {
		c := newChange(w.l, r)
		w.changes = append(w.changes, c)
		w.s.queue.add(c)
	})
	w.waits.End(block.StageAppend, at)
	if err == nil || w.s.log.Fault() == nil {
		for _, c := range w.changes {
			w.pin.Apply(c, w.moved)
		}
	}
	w.s.queue.signal()
	return err
}
