package segment

import (
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// A view is a segment file in memory: a read of what is in the page cache is a
// copy without a system call, and what is lent to a socket (Lend) can be verified
// where it is. A read through a view must not wait for a disk, so it takes only
// what mincore has found in memory lately; pages that were in use half a second
// ago are the last to be evicted, and one that was costs the wait for a read.
// A fault that the file system cannot satisfy, such as of a file that somebody
// cut, ends the read and not the process.
type view struct {
	mem []byte // all of the file's length to be
	// seen is when each granule was last found in memory, in nanoseconds since
	// the log was opened; negative: when it was asked for, but not looked at.
	seen []atomic.Int64
	used atomic.Bool
}

const (
	// granuleBlocks is the unit that residency is asked for: 256 KiB.
	granuleBlocks = 64
	// seenFor is for how long a granule that was in memory is taken to be.
	seenFor = 500 * time.Millisecond
	// maxViewBytes bounds what is mapped at once. It takes no memory but for
	// page tables, at most a 512th of it.
	maxViewBytes = 32 << 30
)

// views keeps the segments that have a view. Lock order: segFile.io before mu.
type views struct {
	mu    sync.Mutex
	of    []*segFile
	hand  int
	bytes int64
	off   atomic.Bool // nothing can be mapped here
}

// view returns the view of s, whose file the caller has acquired, or nil.
func (l *Log) view(s *segFile, f vfs.File) *view {
	if v := s.view.Load(); v != nil {
		if !v.used.Load() {
			v.used.Store(true)
		}
		return v
	}
	if l.views.off.Load() || f.Fd() == vfs.InvalidFd {
		return nil
	}
	return l.makeView(s, f)
}

func (l *Log) makeView(s *segFile, f vfs.File) *view {
	w := &l.views
	w.mu.Lock()
	defer w.mu.Unlock()
	if v := s.view.Load(); v != nil {
		return v
	}
	n := max(s.bytes, l.o.SegmentBytes)
	if !w.makeRoom(n) {
		return nil
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(n), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		if w.off.CompareAndSwap(false, true) {
			l.o.Logger.Warn("segments are not mapped; reads take system calls", zap.Error(err))
		}
		return nil
	}
	// Without readahead by faults: what is not in memory is not read this way.
	_ = unix.Madvise(mem, unix.MADV_RANDOM) // its failure costs time only
	v := &view{mem: mem, seen: make([]atomic.Int64, (len(mem)/block.Size+granuleBlocks-1)/granuleBlocks)}
	v.used.Store(true)
	w.bytes += n
	w.of = append(w.of, s)
	s.view.Store(v)
	return v
}

// makeRoom unmaps files that were not read lately and reports whether n bytes
// may be mapped then. Called with mu held.
func (w *views) makeRoom(n int64) bool {
	for range min(2*len(w.of), 64) {
		if w.bytes+n <= maxViewBytes {
			return true
		}
		if w.hand >= len(w.of) {
			w.hand = 0
		}
		s := w.of[w.hand]
		if v := s.view.Load(); v.used.Swap(false) || !s.io.TryLock() {
			w.hand++
			continue
		}
		w.drop(w.hand)
		s.io.Unlock()
	}
	return w.bytes+n <= maxViewBytes
}

// drop unmaps the i-th file, whose io the caller holds exclusively.
func (w *views) drop(i int) {
	s := w.of[i]
	v := s.view.Swap(nil)
	w.bytes -= int64(len(v.mem))
	last := len(w.of) - 1
	w.of[i], w.of[last] = w.of[last], nil
	w.of = w.of[:last]
	_ = unix.Munmap(v.mem) // of what Mmap returned: cannot fail
}

// forget unmaps the file of s, whose io the caller holds exclusively.
func (w *views) forget(s *segFile) {
	if s.view.Load() == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.of {
		if w.of[i] == s {
			w.drop(i)
			return
		}
	}
}

// blocks returns n blocks from at on, or nil when the file is longer than its
// view.
func (v *view) blocks(at, n uint32) []byte {
	if int64(at+n)*block.Size > int64(len(v.mem)) {
		return nil
	}
	return v.mem[int(at)*block.Size : int(at+n)*block.Size : int(at+n)*block.Size]
}

// resident reports whether the n blocks from at on were all in memory lately.
// Unless now is set, a granule that nobody asked for lately is not looked at:
// for a read of one block that costs as much as it would save. Blocks from
// written on are not in the file yet.
func (v *view) resident(at, n, written uint32, since time.Time, now bool) bool {
	if v.blocks(at, n) == nil {
		return false
	}
	t := int64(time.Since(since))
	for g := at / granuleBlocks; g <= (at+n-1)/granuleBlocks; g++ {
		seen := v.seen[g].Load()
		if seen > 0 && t-seen < int64(seenFor) {
			continue
		}
		if !now && (seen >= 0 || t+seen > int64(seenFor)) {
			v.seen[g].Store(-t)
			return false
		}
		if !v.look(g, at, n, written) {
			v.seen[g].Store(0)
			return false
		}
		if (g+1)*granuleBlocks <= written {
			v.seen[g].Store(t)
		}
	}
	return true
}

// look asks the kernel for the granule, or when that is not all written, for
// what of it is asked for.
func (v *view) look(g, at, n, written uint32) bool {
	lo, hi := g*granuleBlocks, (g+1)*granuleBlocks
	if hi > written || int64(hi)*block.Size > int64(len(v.mem)) {
		lo, hi = max(lo, at), min(hi, at+n)
	}
	var vec [granuleBlocks]byte
	mem := v.blocks(lo, hi-lo)
	if mem == nil || mincore(mem, vec[:hi-lo]) != nil {
		return false
	}
	for _, b := range vec[:hi-lo] {
		if b&1 == 0 {
			return false
		}
	}
	return true
}

// guarded runs fn, which reads a view, and reports false when a page could not
// be had.
func guarded(fn func() bool) (ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if _, fault := r.(interface{ Addr() uintptr }); !fault {
				panic(r)
			}
			ok = false
		}
	}()
	return fn()
}

// copyView copies from a view and reports false when a page could not be had.
func copyView(p, from []byte) bool {
	return guarded(func() bool { return copy(p, from) == len(p) })
}
