package volume

import (
	"errors"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
	"github.com/slackerd/slacker/segment"
)

// mover returns a writer that logs anew what a range of a layer holds, with the
// range locked and pinned until it is released.
func (s *Store) mover(l *cow.Layer, first block.Index, count uint32) (w *writer, release func(), err error) {
	if err := s.Fault(); err != nil {
		return nil, nil, err
	}
	if err := s.queue.room(s.Fault); err != nil {
		return nil, nil, err
	}
	lock := l.Lock(first, uint64(count))
	pin, err := s.tree.Pin(l, first, uint64(count))
	if err != nil {
		lock.Unlock()
		return nil, nil, err
	}
	return &writer{s: s, l: l, pin: pin, moved: true}, func() { pin.Release(); lock.Unlock() }, nil
}

// Relocate moves those of the count blocks from first on, which a record of the
// log placed at addr for layer l, that are still there, to the end of the log,
// and returns how many those were. It may run beside everything else. A block
// that cannot be read or does not verify stays where it is, and is an error; the
// others move all the same.
func (s *Store) Relocate(l *cow.Layer, first block.Index, count uint32, addr block.Addr) (moved uint32, err error) {
	w, release, err := s.mover(l, first, count)
	if err != nil {
		return 0, err
	}
	defer release()
	var bad []error
	for i := uint32(0); i < count; {
		n := stillAt(w.pin, first+block.Index(i), count-i, addr+block.Addr(i))
		if n == 0 {
			i++
			continue
		}
		p, sums, err := w.readOwn(first+block.Index(i), n)
		for ; err != nil && n > 1; p, sums, err = w.readOwn(first+block.Index(i), n) {
			n /= 2
		}
		if err != nil {
			bad = append(bad, err)
			i++
			continue
		}
		if err := w.append(segment.Record{Kind: segment.Move, First: first + block.Index(i), Count: n, Sums: sums, Old: addr + block.Addr(i)}, p); err != nil {
			return moved, errors.Join(append(bad, err)...)
		}
		moved += n
		i += n
	}
	return moved, errors.Join(bad...)
}

// stillAt returns how many of at most count own entries from first on are at addr.
func stillAt(pin *cow.Pin, first block.Index, count uint32, addr block.Addr) (n uint32) {
	for n < count {
		e, own := pin.Entry(first + block.Index(n))
		if !own || e.Addr != addr+block.Addr(n) {
			break
		}
		n++
	}
	return n
}

// readOwn reads own entries of the layer at consecutive addresses.
func (w *writer) readOwn(first block.Index, count uint32) (p []byte, sums []uint32, err error) {
	es := make([]cow.Entry, count)
	sums = make([]uint32, count)
	for i := range es {
		es[i], _ = w.pin.Entry(first + block.Index(i))
		sums[i] = es[i].Sum
	}
	p = make([]byte, int(count)*block.Size)
	return p, sums, w.s.readData(es, first, p)
}

// ForgetSegment durably drops the counter of a segment in which nothing lives.
// Everything committed before is durable too when it returns.
func (s *Store) ForgetSegment(id block.SegmentID) error {
	x := s.db.Begin()
	x.DeleteSegment(id)
	if err := s.commit(x); err != nil {
		return err
	}
	s.tree.ForgetSegment(id)
	return nil
}

// keepStep is how many blocks one step of KeepZeros covers.
const keepStep = 4 * cow.PageBlocks

// KeepZeros logs anew those of the blocks that are zero by the layer's own doing,
// before the segment goes that says so: the log tells everything that the map
// does (V9). It returns how many records that were.
func (s *Store) KeepZeros(l *cow.Layer, first block.Index, count uint32) (records int, err error) {
	for count > 0 && err == nil {
		n := min(count, keepStep)
		var k int
		k, err = s.keepZeros(l, first, n)
		first, count, records = first+block.Index(n), count-n, records+k
	}
	return records, err
}

func (s *Store) keepZeros(l *cow.Layer, first block.Index, count uint32) (records int, err error) {
	w, release, err := s.mover(l, first, count)
	if err != nil {
		return 0, err
	}
	defer release()
	own := func(i uint32) bool {
		e, own := w.pin.Entry(first + block.Index(i))
		return own && e == cow.Zero
	}
	for i := uint32(0); i < count; i++ {
		n := uint32(0)
		for i+n < count && own(i+n) {
			n++
		}
		if n == 0 {
			continue
		}
		if err := w.append(segment.Record{Kind: segment.Zero, First: first + block.Index(i), Count: n}, nil); err != nil {
			return records, err
		}
		records++
		i += n
	}
	return records, nil
}
