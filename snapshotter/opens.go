package snapshotter

import (
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/boottrace"
)

const (
	maxLookedAt    = 64 << 20                       // bytes of a file; one that is larger is left alone
	gapPages       = 64 << 10 / boottrace.PageBytes // which are read with what is around them
	eventsBytes    = 64 << 10
	pidBytes       = 20            // into an event
	fidHeaderBytes = 4 + 8 + 4 + 4 // header, file system, and of the handle its size and type
)

// opens are the files that others than this process open on a mounted file system.
// A nil one is of none.
type opens struct {
	dir   string
	since time.Time // as file systems tell it, or a little before

	mu     sync.Mutex
	events int // of fanotify; -1 when closed
	seen   map[string]bool
	files  []unix.FileHandle // in the order of their first opening
}

// watchOpens watches the file system at dir. It does not keep it mounted.
func watchOpens(dir string) (*opens, error) {
	var since unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &since)
	if err != nil {
		return nil, block.Errorf(block.Unsupported, "tell the time: %w", err)
	}
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_REPORT_FID|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY)
	if err == nil {
		if err = unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_OPEN, unix.AT_FDCWD, dir); err != nil {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	if err != nil {
		return nil, block.Errorf(block.Unsupported, "watch what is opened at %s: %w", dir, err)
	}
	return &opens{dir: dir, since: time.Unix(since.Unix()), events: fd, seen: map[string]bool{}}, nil
}

// close ends the watch. It may be called again.
func (o *opens) close() {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.events >= 0 {
		_ = unix.Close(o.events) // there is nothing to lose
	}
	o.events = -1
}

// take returns the files that were opened so far. It does not touch them.
func (o *opens) take() []unix.FileHandle {
	o.mu.Lock()
	defer o.mu.Unlock()
	buf := make([]byte, eventsBytes)
	for o.events >= 0 {
		n, err := unix.Read(o.events, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 { // EAGAIN: that was all
			break
		}
		for b := buf[:n]; len(b) >= unix.FAN_EVENT_METADATA_LEN; {
			length, head := int(binary.NativeEndian.Uint32(b)), int(binary.NativeEndian.Uint16(b[6:]))
			if length < head || length > len(b) {
				return o.files
			}
			// What is read ahead here would count as opened for ever.
			if int(binary.NativeEndian.Uint32(b[pidBytes:])) != os.Getpid() {
				o.note(b[head:length])
			}
			b = b[length:]
		}
	}
	return o.files
}

// note notes the file of an event.
func (o *opens) note(info []byte) {
	if len(info) < fidHeaderBytes || info[0] != unix.FAN_EVENT_INFO_TYPE_FID || len(o.files) >= boottrace.MaxFiles {
		return
	}
	size, kind := int(binary.NativeEndian.Uint32(info[12:])), int32(binary.NativeEndian.Uint32(info[16:])) //nolint:gosec // as the kernel has it
	handle := info[fidHeaderBytes:]
	if size > len(handle) || o.seen[string(handle[:size])] {
		return
	}
	o.seen[string(handle[:size])] = true
	o.files = append(o.files, unix.NewFileHandle(kind, handle[:size]))
}

// look returns what was opened so far, as far as it is still there and nobody has
// changed it since the watch began, and what of it is in memory: what a container
// makes is its own. When dir is not mounted any more it returns nothing.
func (o *opens) look() (files []boottrace.File) {
	root, err := unix.Open(o.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(root) }() // read only
	for _, h := range o.take() {
		// What is no regular file is not opened: that may have effects.
		at, err := unix.OpenByHandleAt(root, h, unix.O_PATH|unix.O_CLOEXEC)
		if err != nil {
			continue
		}
		if f, ok := o.lookAt(at); ok {
			files = append(files, f)
		}
		_ = unix.Close(at) // a reference
	}
	return files
}

func (o *opens) lookAt(at int) (f boottrace.File, ok bool) {
	sizeBytes, changed := regular(at)
	if sizeBytes == 0 || sizeBytes > maxLookedAt || !changed.Before(o.since) {
		return f, false
	}
	name, err := os.Readlink(procFD(at))
	if err != nil {
		return f, false
	}
	if f.Path, ok = strings.CutPrefix(name, o.dir+"/"); !ok {
		return f, false
	}
	fd, err := unix.Open(procFD(at), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOATIME, 0) // to map it is to access it
	if err != nil {
		return f, false
	}
	defer func() { _ = unix.Close(fd) }() // read only
	f.Runs = inMemory(fd, sizeBytes)
	return f, len(f.Runs) > 0
}

// regular returns the size of a regular file, and when it was last changed; 0 of
// what is none.
func regular(at int) (sizeBytes int64, changed time.Time) {
	var st unix.Stat_t
	if unix.Fstat(at, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, changed
	}
	return st.Size, time.Unix(st.Ctim.Unix())
}

// inMemory returns the parts of a file that are in the page cache.
func inMemory(fd int, sizeBytes int64) (runs []boottrace.Run) {
	mem, err := unix.Mmap(fd, 0, int(sizeBytes), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Munmap(mem) }()
	page := os.Getpagesize()
	pages := make([]byte, (len(mem)+page-1)/page)
	if _, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mem[0])), uintptr(len(mem)), uintptr(unsafe.Pointer(&pages[0]))); e != 0 {
		return nil
	}
	each := uint64(page / boottrace.PageBytes)
	for i, p := range pages {
		if p&1 == 0 {
			continue
		}
		first := uint64(i) * each
		if n := len(runs); n > 0 && (first-runs[n-1].First-runs[n-1].Count <= gapPages || n == boottrace.MaxFileRuns) {
			runs[n-1].Count = first + each - runs[n-1].First
			continue
		}
		runs = append(runs, boottrace.Run{First: first, Count: each})
	}
	return runs
}

func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
