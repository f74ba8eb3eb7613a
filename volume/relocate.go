package volume

import (
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
	"github.com/slackerd/slacker/segment"
)

// Relocate moves those of the count blocks from first on, which a record of the
// log placed at addr for layer l, that are still there, to the end of the log,
// and returns how many those were. It may run beside everything else. A block
// that does not verify stays where it is, and is an error.
func (s *Store) Relocate(l *cow.Layer, first block.Index, count uint32, addr block.Addr) (moved uint32, err error) {
	if err := s.Fault(); err != nil {
		return 0, err
	}
	if err := s.queue.room(s.Fault); err != nil {
		return 0, err
	}
	defer l.Lock(first, uint64(count)).Unlock()
	pin, err := s.tree.Pin(l, first, uint64(count))
	if err != nil {
		return 0, err
	}
	defer pin.Release()
	w := &writer{s: s, l: l, pin: pin, moved: true}
	for i := uint32(0); i < count; {
		n := stillAt(pin, first+block.Index(i), count-i, addr+block.Addr(i))
		if n == 0 {
			i++
			continue
		}
		if err := w.relocate(first+block.Index(i), n, addr+block.Addr(i)); err != nil {
			return moved, err
		}
		moved += n
		i += n
	}
	return moved, nil
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

func (w *writer) relocate(first block.Index, count uint32, addr block.Addr) error {
	es := make([]cow.Entry, count)
	sums := make([]uint32, count)
	for i := range es {
		es[i], _ = w.pin.Entry(first + block.Index(i))
		sums[i] = es[i].Sum
	}
	p := make([]byte, int(count)*block.Size)
	if err := w.s.readData(es, first, p); err != nil {
		return err
	}
	return w.append(segment.Record{Kind: segment.Move, First: first, Count: count, Sums: sums, Old: addr}, p)
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
