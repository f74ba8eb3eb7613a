package snapshotter

import (
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

const (
	maxOpened      = 1024     // files that are noted of a place
	maxLookedAt    = 64 << 20 // bytes of a file; one that is larger is left alone
	maxAheadBytes  = 128 << 20
	gapBytes       = 64 << 10 // which is read with what is around it
	eventsBytes    = 64 << 10
	fidHeaderBytes = 4 + 8 + 4 + 4 // header, file system, and of the handle its size and type
)

// opened is a file that a container has opened, and what of it was in memory then.
type opened struct {
	path  string // below the root of its file system
	parts []part
}

type part struct{ offBytes, lengthBytes int64 }

// opens are the files that are opened on a mounted file system. A nil one is of none.
type opens struct {
	dir    string
	events int // of fanotify
	seen   map[string]bool
	files  []unix.FileHandle // in the order of their first opening
}

// watchOpens watches the file system at dir. It does not keep it mounted.
func watchOpens(dir string) (*opens, error) {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_REPORT_FID|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY)
	if err == nil {
		if err = unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_OPEN, unix.AT_FDCWD, dir); err != nil {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	if err != nil {
		return nil, block.Errorf(block.Unsupported, "watch what is opened at %s: %w", dir, err)
	}
	return &opens{dir: dir, events: fd, seen: map[string]bool{}}, nil
}

func (o *opens) close() {
	if o != nil {
		_ = unix.Close(o.events) // there is nothing to lose
	}
}

// take returns the files that were opened so far. It does not touch them.
func (o *opens) take() []unix.FileHandle {
	buf := make([]byte, eventsBytes)
	for {
		n, err := unix.Read(o.events, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 { // EAGAIN: that was all
			return o.files
		}
		for b := buf[:n]; len(b) >= unix.FAN_EVENT_METADATA_LEN; {
			length, head := int(binary.NativeEndian.Uint32(b)), int(binary.NativeEndian.Uint16(b[6:]))
			if length < head || length > len(b) {
				return o.files
			}
			o.note(b[head:length])
			b = b[length:]
		}
	}
}

// note notes the file of an event.
func (o *opens) note(info []byte) {
	if len(info) < fidHeaderBytes || info[0] != unix.FAN_EVENT_INFO_TYPE_FID || len(o.files) >= maxOpened {
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

// lookAt returns what files of the file system at dir are, as far as they are still
// there, and what of them is in memory. Of a dir that is not mounted any more it
// returns nothing.
func lookAt(dir string, handles []unix.FileHandle) (files []opened) {
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(root) }() // read only
	for _, h := range handles {
		// What is no regular file is not opened: that may have effects.
		at, err := unix.OpenByHandleAt(root, h, unix.O_PATH|unix.O_CLOEXEC)
		if err != nil {
			continue
		}
		if f, ok := lookAtFile(dir, at); ok {
			files = append(files, f)
		}
		_ = unix.Close(at) // a reference
	}
	return files
}

func lookAtFile(dir string, at int) (f opened, ok bool) {
	var st unix.Stat_t
	if unix.Fstat(at, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size == 0 || st.Size > maxLookedAt {
		return f, false
	}
	name, err := os.Readlink(procFD(at))
	if err != nil {
		return f, false
	}
	if f.path, ok = strings.CutPrefix(name, dir+"/"); !ok {
		return f, false
	}
	f.parts = inMemory(at, st.Size)
	return f, len(f.parts) > 0
}

// inMemory returns the parts of a file that are in the page cache.
func inMemory(at int, sizeBytes int64) (parts []part) {
	fd, err := unix.Open(procFD(at), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(fd) }() // read only
	mem, err := unix.Mmap(fd, 0, int(sizeBytes), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Munmap(mem) }()
	page := int64(os.Getpagesize())
	pages := make([]byte, (sizeBytes+page-1)/page)
	if _, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mem[0])), uintptr(len(mem)), uintptr(unsafe.Pointer(&pages[0]))); e != 0 {
		return nil
	}
	for i, p := range pages {
		if p&1 == 0 {
			continue
		}
		off := int64(i) * page
		if n := len(parts); n > 0 && off-parts[n-1].offBytes-parts[n-1].lengthBytes <= gapBytes {
			parts[n-1].lengthBytes = off + page - parts[n-1].offBytes
			continue
		}
		parts = append(parts, part{off, page})
	}
	return parts
}

func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// readAhead reads files of the file system at dir into memory, until wanted says no
// or it is enough.
func readAhead(dir string, files []opened, wanted func() bool) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(root) }() // a reference
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	left := int64(maxAheadBytes)
	for _, f := range files {
		if left <= 0 || !wanted() {
			return
		}
		fd, err := unix.Openat2(root, f.path, &how)
		if err != nil {
			continue
		}
		for _, p := range f.parts {
			_ = unix.Fadvise(fd, p.offBytes, p.lengthBytes, unix.FADV_WILLNEED) // a favour
			left -= p.lengthBytes
		}
		_ = unix.Close(fd) // read only
	}
}
