package segment

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/slackerd/slacker/block"
)

// A sync into space that holds zeros costs less than one into allocated but
// unwritten space, where every first write converts an extent. So zeros are
// written ahead of the log in steps, each synced on its own. Append and Sync of
// one record (BenchmarkAppendSync, ext4 on a virtual disk, 2 cores), without and
// with zeros, the zeros' own cost included:
//
//	4 KiB   184-232 us   116-132 us
//	64 KiB  281-323 us   210-258 us
//	1 MiB   2.5 ms       1.4-1.7 ms
//
// Zeros double what the disk has to write, so a log whose group commits are
// large, which is busy with bandwidth rather than latency, goes without.
const (
	zeroStepBlocks = 256  // 1 MiB
	zeroLowBlocks  = 1024 // 4 MiB: begin when less is left
	zeroHighBlocks = 2048 // 8 MiB: rest when that much is there
	// zeroMaxRound is the largest group commit, in blocks with its headers, for
	// which zeros pay.
	zeroMaxRound = 64
)

// zeroMode says when to write zeros ahead.
type zeroMode uint8

const (
	zeroAuto   zeroMode = iota // on real files, when syncs are small
	zeroAlways                 // on every file system, for syncs of any size
	zeroNever
)

// zeroAhead is how far zeros have been written in the tail. All in blocks.
type zeroAhead struct {
	done      uint32 // zeros are durable up to here, from the cursor on
	lo, hi    uint32 // being written into seg
	seg       *segFile
	lastRound uint32 // cursor at the last round
}

// zeroMore decides at each group commit whether to write zeros. Called with mu
// held.
func (l *Log) zeroMore() {
	a := &l.ahead
	size := l.cursor - a.lastRound
	if l.cursor < a.lastRound {
		size = l.cursor
	}
	a.lastRound = l.cursor
	if l.tail == nil || l.cut || l.o.zeroAhead == zeroNever || l.o.zeroAhead == zeroAuto && size > zeroMaxRound {
		return
	}
	if a.done < l.cursor+zeroLowBlocks && a.done < l.segBlocks {
		wake(l.wakeZ)
	}
}

// awaitZeros waits until c overlaps no zeros that are being written: they would
// wipe it out. Called with mu held.
func (l *Log) awaitZeros(c *chunk) {
	for l.ahead.seg == c.seg && c.pos < l.ahead.hi && l.ahead.lo < c.pos+1+c.used {
		l.cond.Wait()
	}
}

func (l *Log) zeroer() {
	defer l.workers.Done()
	zeros := make([]byte, zeroStepBlocks*block.Size)
	for {
		select {
		case <-l.quit:
			return
		case <-l.wakeZ:
		}
		for l.zeroStep(zeros) {
		}
	}
}

// zeroStep writes one step of zeros and says whether to go on.
func (l *Log) zeroStep(zeros []byte) bool {
	l.mu.Lock()
	a := &l.ahead
	if l.usable() != nil || l.tail == nil || l.cut {
		l.mu.Unlock()
		return false
	}
	s := l.tail
	// What is closed or open already ends before this.
	lo := max(a.done, l.cursor+1+maxChunkBlocks)
	hi := min(lo+zeroStepBlocks, l.segBlocks)
	if lo >= hi || lo >= l.cursor+zeroHighBlocks {
		l.mu.Unlock()
		return false
	}
	a.seg, a.lo, a.hi = s, lo, hi
	l.mu.Unlock()

	f, err := l.openForZeros(s)
	if err == nil {
		if l.o.zeroAhead == zeroAuto && f.Fd() == vfs.InvalidFd {
			hi = lo // not a real file: nothing to gain
		}
		_, err = f.WriteAt(zeros[:(hi-lo)*block.Size], int64(lo)*block.Size)
	}
	l.mu.Lock()
	a.seg = nil
	l.cond.Broadcast()
	l.mu.Unlock()
	if err == nil && hi > lo {
		err = f.SyncData()
	}
	if f != nil {
		err = errors.Join(err, f.Close())
	}
	if errors.Is(err, ErrGone) {
		return false // sealed and deleted meanwhile
	}
	if err != nil {
		// fail returns the error that every later caller gets.
		_ = l.fail(err, fmt.Sprintf("write zeros to segment %d", s.id))
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tail == s {
		a.done = hi
	}
	return hi > lo && l.tail == s
}

// openForZeros opens the file once more: the kernel reports a failed
// write-back to one fdatasync of each open file, so a sync of zeros on the
// log's own would take an error away from the Sync it belongs to.
func (l *Log) openForZeros(s *segFile) (vfs.File, error) {
	if _, err := l.acquire(s); err != nil { // it must exist, or it would be created
		return nil, err
	}
	defer s.release()
	return l.o.FS.OpenReadWrite(s.path, writeCategory)
}
