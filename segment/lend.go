package segment

import (
	"golang.org/x/sys/unix"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/slackerd/slacker/block"
)

// Lend puts the n blocks at addr into a pipe as references to the pages of the
// page cache, without copying them, and then calls verify with the same pages,
// mapped. It returns true when all are in the pipe and verify did. Else, which
// is when they are not all in a file and in memory, or the segment is gone, the
// pipe may hold any part of them.
//
// What is verified is what is in the pipe: a page that the pipe refers to cannot
// be evicted or moved, so it is the one in the page cache when verify maps it,
// and nothing writes to it: what is written of a segment stays (S10), and a
// segment that was lent is not used again (S9).
func (l *Log) Lend(addr block.Addr, n uint32, pipe int, verify func(p []byte) bool) bool {
	at := addr.Block()
	s := l.segment(addr.Segment())
	if s == nil || n == 0 || at == 0 || uint64(at)+uint64(n) > block.MaxSegmentBlocks || at+n > s.written.Load() {
		return false
	}
	f, err := l.acquire(s)
	if err != nil {
		return false
	}
	defer s.release()
	fd := f.Fd()
	if fd == vfs.InvalidFd {
		return false
	}
	v := l.view(s, f)
	if v == nil || !v.resident(at, n, s.written.Load(), l.began, true) {
		return false
	}
	if !s.lent.Load() {
		s.lent.Store(true) // before the first page leaves
	}
	if !fillPipe(pipe, int(fd), int64(at)*block.Size, int(n)*block.Size) {
		return false
	}
	return guarded(func() bool { return verify(v.blocks(at, n)) })
}

// fillPipe moves n bytes at off of a file into a pipe. It does not wait for
// room in the pipe.
func fillPipe(pipe, file int, off int64, n int) bool {
	for n > 0 {
		got, err := unix.Splice(file, &off, pipe, nil, n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if err == unix.EINTR {
			continue
		}
		if err != nil || got == 0 {
			return false
		}
		n -= int(got)
	}
	return true
}
