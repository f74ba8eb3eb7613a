package snapshotter

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/boottrace"
)

const (
	// aheadAtOnce is how many files are read at once. Each waits for what its path leads
	// over, one block after the other; more would take the processors from the container.
	aheadAtOnce = 2
	// aheadBytes is how much of a file is asked for at once.
	aheadBytes = 512 << 10
)

// readAhead reads files of the file system at dir into memory, until wanted says no.
// It leaves no trace in the file system, follows no links and opens nothing but
// regular files, whatever the paths lead to.
func readAhead(dir string, files []boottrace.File, wanted func() bool) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(root) }() // a reference
	var next atomic.Int64
	var all sync.WaitGroup
	for range aheadAtOnce {
		all.Go(func() {
			for wanted() {
				i := int(next.Add(1)) - 1
				if i >= len(files) {
					return
				}
				readFileAhead(root, files[i], wanted)
			}
		})
	}
	all.Wait()
}

func readFileAhead(root int, f boottrace.File, wanted func() bool) {
	at, err := unix.Openat2(root, f.Path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV})
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(at) }() // a reference
	sizeBytes, _ := regular(at)
	if sizeBytes == 0 {
		return
	}
	fd, err := unix.Open(procFD(at), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }() // read only
	// A piece is awaited before the next is asked for, so that the container's own reads
	// never wait behind much.
	for _, r := range f.Runs {
		at, end := int64(r.First*boottrace.PageBytes), min(int64((r.First+r.Count)*boottrace.PageBytes), sizeBytes)
		for ; at < end && wanted(); at += aheadBytes {
			n := min(aheadBytes, end-at)
			_ = unix.Fadvise(fd, at, n, unix.FADV_WILLNEED) // a favour
			if _, err := unix.Pread(fd, make([]byte, 1), at+n-1); err != nil {
				return
			}
		}
	}
}
