package segment

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/slackerd/slacker/block"
)

// ReadAt reads the blocks at addr into p, whose length is a multiple of
// block.Size; they must lie in one segment. It verifies nothing: the caller has
// the checksums. What was appended is there at once. The error is ErrGone when
// the segment was deleted, before or during the read.
func (l *Log) ReadAt(addr block.Addr, p []byte) error {
	s, n, err := l.locate(addr, p)
	if err != nil {
		return err
	}
	at := addr.Block()
	fromFile := n
	if at+n > s.written.Load() {
		if fromFile, err = l.copyUnwritten(s, at, p); err != nil {
			return err
		}
	}
	if fromFile == 0 {
		return nil
	}
	f, err := l.acquire(s)
	if err != nil {
		return err
	}
	defer s.release()
	if _, err := f.ReadAt(p[:int(fromFile)*block.Size], int64(at)*block.Size); err != nil {
		if errors.Is(err, io.EOF) {
			return block.Errorf(block.Corrupt, "read %s: %d blocks: %w", addr, n, err)
		}
		return block.Errorf(block.IO, "read %s: %d blocks: %w", addr, n, err)
	}
	return nil
}

// ReadNow is ReadAt for what can be had without waiting for a disk: memory or
// the page cache. It returns false, and p undefined, when it cannot.
func (l *Log) ReadNow(addr block.Addr, p []byte) (bool, error) {
	s, n, err := l.locate(addr, p)
	if err != nil {
		return false, err
	}
	at := addr.Block()
	if at+n > s.written.Load() {
		fromFile, err := l.copyUnwritten(s, at, p)
		if err != nil {
			return false, err
		}
		if fromFile == 0 {
			return true, nil
		}
		p = p[:int(fromFile)*block.Size]
	}
	f, err := l.acquire(s)
	if err != nil {
		return false, err
	}
	defer s.release()
	if v := l.view(s, f); v != nil {
		n := uint32(len(p) / block.Size)
		if v.resident(at, n, s.written.Load(), l.began, false) && copyView(p, v.blocks(at, n)) {
			return true, nil
		}
	}
	fd := f.Fd()
	if fd == vfs.InvalidFd {
		_, err := f.ReadAt(p, int64(at)*block.Size)
		if err != nil {
			return false, block.Errorf(block.IO, "read %s: %w", addr, err)
		}
		return true, nil
	}
	// Any error, EAGAIN among them, means: ask ReadAt, which reports it.
	got, err := unix.Preadv2(int(fd), [][]byte{p}, int64(at)*block.Size, unix.RWF_NOWAIT)
	return err == nil && got == len(p), nil
}

// locate finds the segment of a read and bounds it.
func (l *Log) locate(addr block.Addr, p []byte) (*segFile, uint32, error) {
	n := uint64(len(p)) / block.Size
	if len(p)%block.Size != 0 || n == 0 || n > block.MaxSegmentBlocks || addr.Block() == 0 || uint64(addr.Block())+n > block.MaxSegmentBlocks {
		return nil, 0, block.Errorf(block.Invalid, "read %s: %d bytes: want whole blocks within a segment", addr, len(p))
	}
	s := l.segment(addr.Segment())
	if s == nil {
		return nil, 0, &block.Error{Kind: block.NotFound, Text: fmt.Sprintf("read %s: segment is gone", addr), Err: ErrGone}
	}
	return s, uint32(n), nil
}

// copyUnwritten copies those blocks of a read at block at of s that are in
// memory only and returns how many before them are in the file. Payload of a
// direct chunk is.
func (l *Log) copyUnwritten(s *segFile, at uint32, p []byte) (fromFile uint32, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	end := at + uint32(len(p)/block.Size)
	w := s.written.Load()
	from, file := max(at, w), min(max(w, at), end)
	copyFrom := func(c *chunk) {
		if c == nil || c.seg != s {
			return
		}
		lo, hi := max(from, c.pos), min(end, c.pos+1+c.used)
		switch {
		case lo >= hi || lo != from:
		case c.direct && file == from:
			from, file = hi, hi
		case !c.direct:
			copy(p[int(lo-at)*block.Size:], c.buf[int(lo-c.pos)*block.Size:int(hi-c.pos)*block.Size])
			from = hi
		}
	}
	for _, c := range l.pending {
		copyFrom(c)
	}
	copyFrom(l.open)
	if from < end {
		return 0, block.Errorf(block.Invalid, "read segment %d, blocks %d to %d: block %d was never written", s.id, at, end, from)
	}
	return file - at, nil
}
