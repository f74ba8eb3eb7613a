package blockcache

import (
	"encoding/binary"
	"sync"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// sum is what is kept of a block, see B1.
func (b *Base) sum(d *xxhash.Digest, index uint64, p []byte) uint64 {
	var key [nameBytes + 8]byte
	copy(key[:], b.name[:])
	binary.LittleEndian.PutUint64(key[nameBytes:], index)
	d.Reset()
	_, _ = d.Write(key[:]) // never fails
	_, _ = d.Write(p)
	return max(d.Sum64(), 1)
}

// scratch is the memory of one call.
type scratch struct {
	digest xxhash.Digest
	sums   []byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func (s *scratch) grow(nBlocks int) []byte {
	if cap(s.sums) < nBlocks*sumBytes {
		s.sums = make([]byte, nBlocks*sumBytes)
	}
	s.sums = s.sums[:nBlocks*sumBytes]
	return s.sums
}

// whole reports whether a range is one of whole blocks of the base, at least one.
func (b *Base) whole(p []byte, offBytes uint64) bool {
	n := uint64(len(p))
	return n > 0 && n%block.Size == 0 && offBytes%block.Size == 0 && n <= b.sizeBytes && offBytes <= b.sizeBytes-n
}

// Read fills p, of whole blocks, with what is there: all but the blocks first to
// end, counted from the beginning of p, some of which may be there too. With
// first == end all of it was there. What is in p of the others is no matter.
//
// With nowait it does not wait for the disk: then ok is false when it would have
// to.
func (b *Base) Read(p []byte, offBytes uint64, nowait bool) (first, end int, ok bool) {
	n := len(p) / block.Size
	if !b.whole(p, offBytes) {
		return 0, n, true
	}
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	sums := s.grow(n)
	got, ok := readAt(int(b.sums.Fd()), sums, int64(offBytes/block.Size*sumBytes), nowait)
	if !ok {
		return 0, n, false
	}
	clear(sums[got:]) // beyond the end of the file
	first, end = missing(sums, 0, n)
	if first == 0 && end == n {
		return 0, n, true
	}
	// What is between two blocks that are there is read too: it costs nothing.
	got, ok = readAt(int(b.data.Fd()), p, int64(offBytes), nowait)
	if !ok {
		return 0, n, false
	}
	clear(p[got:]) // blocks of zeroes at the end of a file are not written
	first, end = n, 0
	for i := range n {
		kept := binary.LittleEndian.Uint64(sums[i*sumBytes:])
		if kept == 0 || kept != b.sum(&s.digest, offBytes/block.Size+uint64(i), p[i*block.Size:(i+1)*block.Size]) {
			first, end = min(first, i), i+1
		}
	}
	if end == 0 {
		first = 0
	}
	return first, end, true
}

// missing returns the blocks of [from, to) from the first to the last without a sum.
func missing(sums []byte, from, to int) (first, end int) {
	first = to
	for i := from; i < to; i++ {
		if binary.LittleEndian.Uint64(sums[i*sumBytes:]) == 0 {
			first, end = min(first, i), i+1
		}
	}
	if end == 0 {
		return 0, 0
	}
	return first, end
}

// readAt reads what the file has of p. ok is false when that failed, or has to
// wait and nowait is set.
func readAt(fd int, p []byte, offBytes int64, nowait bool) (got int, ok bool) {
	for got < len(p) {
		var n int
		var err error
		if nowait {
			n, err = unix.Preadv2(fd, [][]byte{p[got:]}, offBytes+int64(got), unix.RWF_NOWAIT)
		} else {
			n, err = unix.Pread(fd, p[got:], offBytes+int64(got))
		}
		switch {
		case err == unix.EINTR:
		case err != nil:
			return got, false
		case n == 0:
			return got, true
		default:
			got += n
		}
	}
	return got, true
}

// Has reports whether a block may be there, without looking at its bytes. With
// nowait what it would have to wait for the disk for is not there.
func (b *Base) Has(offBytes uint64, nowait bool) bool {
	var sum [sumBytes]byte
	got, ok := readAt(int(b.sums.Fd()), sum[:], int64(offBytes/block.Size*sumBytes), nowait)
	return ok && got == sumBytes && binary.LittleEndian.Uint64(sum[:]) != 0
}

// Fill keeps p, whole blocks of the base. The caller vouches for what they are.
// It may keep some, or nothing, and reports how many bytes it kept.
func (b *Base) Fill(p []byte, offBytes uint64) (keptBytes int) {
	if !b.whole(p, offBytes) || !b.cache.mayFill(b, int64(len(p))) {
		return 0
	}
	n := len(p) / block.Size
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	sums := s.grow(n)
	for from := 0; from < n; {
		to := from + 1
		zero := block.IsZero(p[from*block.Size : to*block.Size])
		for to < n && block.IsZero(p[to*block.Size:(to+1)*block.Size]) == zero {
			to++
		}
		if !zero && !b.cache.write(int(b.data.Fd()), p[from*block.Size:to*block.Size], int64(offBytes)+int64(from)*block.Size) {
			return 0
		}
		from = to
	}
	for i := range n {
		binary.LittleEndian.PutUint64(sums[i*sumBytes:], b.sum(&s.digest, offBytes/block.Size+uint64(i), p[i*block.Size:(i+1)*block.Size]))
	}
	if !b.cache.write(int(b.sums.Fd()), sums, int64(offBytes/block.Size*sumBytes)) {
		return 0
	}
	return len(p)
}

// write writes all of p, or ends the filling.
func (c *Cache) write(fd int, p []byte, offBytes int64) bool {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, offBytes)
		if err != nil && err != unix.EINTR {
			c.broken.Store(true)
			return false
		}
		p, offBytes = p[max(n, 0):], offBytes+int64(max(n, 0))
	}
	return true
}
