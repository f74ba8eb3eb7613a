package segment

import (
	"runtime"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// Settle hands every record appended before the call to the operating system:
// they survive the end of this process, though not a crash of the machine, which
// takes Sync. It waits for no disk. Callers that come together share the work.
//
// The open chunk stays open. Its payload so far goes to its place, then a
// header that speaks of it; both are written over when more has been added. That
// is safe because nothing of the chunk has been synced: Sync closes it first.
func (l *Log) Settle() error {
	l.mu.Lock()
	target := l.next - 1
	if l.settled < target && l.settlers.expected() {
		l.mu.Unlock()
		runtime.Gosched() // others that are ready to append share the write
		l.mu.Lock()
		l.settlers.came(l.next-1 > target)
	}
	done := l.settled >= target
	l.mu.Unlock()
	if done {
		return l.Fault()
	}
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	for {
		l.mu.Lock()
		c := l.open
		switch {
		case l.Fault() != nil || l.settled >= target:
			l.mu.Unlock()
			return l.Fault()
		case len(l.pending) > 0:
			if err := l.writeOldest(); err != nil {
				return err
			}
		case c == nil || c.settled():
			l.settled = l.next - 1
			l.mu.Unlock()
		default:
			if err := l.settleOpen(c); err != nil {
				return err
			}
		}
	}
}

// Leave settles the log for a process that takes it over, and returns the number
// of the first record that there is not. Nothing may be appended any more; Close
// is for when nobody takes over.
func (l *Log) Leave() (LSN, error) {
	if err := l.Settle(); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.settled != l.next-1 {
		return 0, block.Errorf(block.Internal, "leave the log: record %d was appended meanwhile", l.next-1)
	}
	return l.next, nil
}

// settleOpen writes what the open chunk holds. Called with writeMu and mu held;
// it releases mu.
func (l *Log) settleOpen(c *chunk) error {
	l.awaitZeros(c)
	for c.writing > 0 && l.open == c { // S12; at most until it is full
		l.cond.Wait()
	}
	if l.open != c {
		l.mu.Unlock()
		return nil // closed meanwhile; it is pending now
	}
	header := l.header[:block.Size]
	copy(header, c.buf[:c.off])
	clear(header[c.off:])
	crc := l.encodeHeader(c, 0, header)
	payload, used, entries, last := c.payload(c.settledBlocks), c.used, c.entries, l.next-1
	first := c.settledEntries == 0 && !c.direct
	l.mu.Unlock()
	if first && used <= settleTogether {
		copy(l.header[block.Size:], payload)
		header, payload = l.header[:(1+used)*block.Size], nil
	}
	if err := l.writeChunk(c, payload, header); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c.settledBlocks = used
	if l.open == c { // else it has been closed with another header
		c.settledEntries, c.settledCRC = entries, crc
		l.settled = max(l.settled, last)
	}
	return nil
}

// StartSync has the disk begin with what a Sync of the open chunk, as it is settled,
// would write, when its caller expects one soon: that waits for less then. Where
// syncs come from many, each round does it for all of them, and this does nothing.
// A write that fails is found by the round that syncs it: the kernel tells an error
// once to each open file, and this does not ask for it (zero.go has a file of its own).
func (l *Log) StartSync() {
	l.mu.Lock()
	c := l.open
	if l.usable() != nil || c == nil || !c.settled() || l.round != nil || !l.syncers.alone() {
		l.mu.Unlock()
		return
	}
	s, from, n := c.seg, int64(c.pos)*block.Size, int64(1+c.used)*block.Size
	l.mu.Unlock()
	f, err := l.acquire(s)
	if err != nil {
		return // gone or closed: Sync says so
	}
	defer s.release()
	if fd := f.Fd(); fd != vfs.InvalidFd {
		_ = unix.SyncFileRange(int(fd), from, n, unix.SYNC_FILE_RANGE_WRITE)
	}
}

// settleTogether is how many blocks are copied to go out with their header in
// one write.
const settleTogether = 15

// headerBlock is room for one header, of whoever holds writeMu, and a little
// payload.
type headerBlock [(1 + settleTogether) * block.Size]byte

// company learns whether it pays to let others come before a step that many can
// share: who is alone would only wait.
type company int

const (
	// maxAlone is for how many steps in a row nobody may come before it rests,
	// and aloneFor for how many steps it does.
	maxAlone = 8
	aloneFor = 64
)

// expected says whether to yield; came must follow then.
func (c *company) expected() bool {
	if *c < 0 {
		*c++
		return false
	}
	return true
}

// alone says that nobody came lately.
func (c *company) alone() bool { return *c < 0 }

func (c *company) came(yes bool) {
	switch {
	case yes:
		*c = 0
	case *c == maxAlone:
		*c = -aloneFor
	default:
		*c++
	}
}
