package volume

import (
	"context"
	"errors"
	"sync"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
	"github.com/slackerd/slacker/segment"
)

// span is the aligned blocks around a range of bytes.
type span struct {
	first block.Index
	count uint64
	head  uint64 // bytes of the first block before the range
}

func spanOf(offBytes, lengthBytes uint64) span {
	first := offBytes / block.Size
	end := (offBytes + lengthBytes + block.Size - 1) / block.Size
	return span{block.Index(first), end - first, offBytes % block.Size}
}

func aligned(offBytes, lengthBytes uint64) bool { return (offBytes|lengthBytes)%block.Size == 0 }

var entryPool = sync.Pool{New: func() any { return new([]cow.Entry) }}

// entries returns a scratch slice, to be put back into entryPool.
func entries(n uint64) *[]cow.Entry {
	es := entryPool.Get().(*[]cow.Entry)
	if uint64(cap(*es)) < n {
		*es = make([]cow.Entry, n)
	}
	*es = (*es)[:n]
	return es
}

// ReadAt fills p or fails.
func (d *Device) ReadAt(ctx context.Context, p []byte, offBytes uint64) error {
	if len(p) == 0 {
		return nil
	}
	w := block.WaitsOf(ctx)
	l, err := d.enter()
	if err != nil {
		return err
	}
	defer d.leave()
	if aligned(offBytes, uint64(len(p))) {
		return d.s.readBlocks(w, l, block.Index(offBytes/block.Size), p)
	}
	sp := spanOf(offBytes, uint64(len(p)))
	buf := make([]byte, sp.count*block.Size)
	if err := d.s.readBlocks(w, l, sp.first, buf); err != nil {
		return err
	}
	copy(p, buf[sp.head:])
	return nil
}

// ReadNow reads if neither the map nor the data has to be waited for.
func (d *Device) ReadNow(p []byte, offBytes uint64) (bool, error) {
	if len(p) == 0 || !aligned(offBytes, uint64(len(p))) {
		return false, nil
	}
	l, err := d.enter()
	if err != nil {
		return false, err
	}
	defer d.leave()
	first := block.Index(offBytes / block.Size)
	es := entries(uint64(len(p)) / block.Size)
	defer entryPool.Put(es)
	if !d.s.tree.LookupCached(l, first, *es) {
		return false, nil
	}
	for i := 0; i < len(*es); {
		n := runLength((*es)[i:])
		part := p[i*block.Size : (i+n)*block.Size]
		if e := (*es)[i]; e.IsData() {
			ok, err := d.s.log.ReadNow(e.Addr, part)
			if err != nil || !ok || d.s.verify((*es)[i:i+n], first+block.Index(i), part) >= 0 {
				return false, nil // ReadAt looks into it
			}
			d.s.readsMemory.Add(1)
		} else {
			clear(part)
		}
		i += n
	}
	return true, nil
}

// runLength is how many of the entries, at least one, are of one kind and
// follow on one another.
func runLength(es []cow.Entry) int {
	data := es[0].IsData()
	for i := 1; i < len(es); i++ {
		if es[i].IsData() != data || data && (es[i].Addr != es[0].Addr+block.Addr(i) || es[i].Addr.Segment() != es[0].Addr.Segment()) {
			return i
		}
	}
	return len(es)
}

// verify returns the first block whose checksum does not match, or -1.
func (s *Store) verify(es []cow.Entry, first block.Index, p []byte) int {
	for i := range es {
		if block.Checksum(first+block.Index(i), p[i*block.Size:(i+1)*block.Size]) != es[i].Sum {
			return i
		}
	}
	return -1
}

// readBlocks fills p with the blocks of l from first on, verified, and measures
// in w. The gate is held.
func (s *Store) readBlocks(w *block.Waits, l *cow.Layer, first block.Index, p []byte) error {
	es := entries(uint64(len(p)) / block.Size)
	defer entryPool.Put(es)
	at := w.Begin()
	err := s.tree.Lookup(l, first, *es)
	at = w.End(block.StagePages, at)
	if err != nil {
		return err
	}
	defer w.End(block.StageData, at)
	for i := 0; i < len(*es); {
		n := runLength((*es)[i:])
		part := p[i*block.Size : (i+n)*block.Size]
		if err := s.readRun(l, first+block.Index(i), (*es)[i:i+n], part); err != nil {
			return err
		}
		i += n
	}
	return nil
}

// readRun reads one run. When its bytes are not there any more, or not the
// right ones, the cleaner may have moved them since the page was cached: then
// the map is asked again, for as long as it names other places.
func (s *Store) readRun(l *cow.Layer, first block.Index, es []cow.Entry, p []byte) error {
	if !es[0].IsData() {
		clear(p)
		return nil
	}
	err := s.readData(es, first, p)
	if err == nil || !errors.Is(err, segment.ErrGone) && !block.Is(err, block.Corrupt) {
		return err
	}
	for i := range es {
		if err := s.readMoved(l, first+block.Index(i), es[i], p[i*block.Size:(i+1)*block.Size]); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) readMoved(l *cow.Layer, i block.Index, e cow.Entry, p []byte) error {
	for {
		err := s.readData([]cow.Entry{e}, i, p)
		if err == nil {
			return nil
		}
		if err := s.tree.Forget(l, i, e); err != nil {
			return err
		}
		var fresh [1]cow.Entry
		if err := s.tree.Lookup(l, i, fresh[:]); err != nil {
			return err
		}
		if fresh[0] == e {
			return block.Wrap(block.IO, err, "read")
		}
		if e = fresh[0]; !e.IsData() {
			clear(p)
			return nil
		}
	}
}

func (s *Store) readData(es []cow.Entry, first block.Index, p []byte) error {
	s.readsDisk.Add(1)
	if err := s.log.ReadAt(es[0].Addr, p); err != nil {
		return err
	}
	if bad := s.verify(es, first, p); bad >= 0 {
		return block.Errorf(block.Corrupt, "block %d at %v: checksum mismatch: want %08x, got %08x", uint64(first)+uint64(bad), es[bad].Addr,
			es[bad].Sum, block.Checksum(first+block.Index(bad), p[bad*block.Size:(bad+1)*block.Size]))
	}
	return nil
}

// Cache reads the range so that it is at hand.
func (d *Device) Cache(ctx context.Context, offBytes, lengthBytes uint64) error {
	buf := make([]byte, min(lengthBytes, 1<<20))
	for lengthBytes > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(lengthBytes, uint64(len(buf)))
		if err := d.ReadAt(ctx, buf[:n], offBytes); err != nil {
			return err
		}
		offBytes, lengthBytes = offBytes+n, lengthBytes-n
	}
	return nil
}
