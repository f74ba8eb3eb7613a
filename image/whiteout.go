package image

import (
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// Names that remove, in layers of container images.
const (
	whiteoutPrefix = ".wh."         // .wh.NAME removes NAME of the layers below
	whiteoutOpaque = ".wh..wh..opq" // removes all that the layers below put into this directory
	whiteoutOther  = ".wh..wh."     // bookkeeping of aufs, without meaning
)

// whiteouts removes, while a layer is unpacked, what the layers below it have
// made: never what the same layer makes, in whatever order its entries come.
// Entries are known by their directory's inode and their name, so that it does
// not matter through which links a path leads to them.
type whiteouts struct {
	made map[madeEntry]bool
	// holds are the directories at or above an entry of this layer.
	holds map[uint64]bool
}

type madeEntry struct {
	dir  uint64
	name string
}

func newWhiteouts() *whiteouts {
	return &whiteouts{made: map[madeEntry]bool{}, holds: map[uint64]bool{}}
}

// record notes that the layer has made base in d.
func (w *whiteouts) record(t *tree, d *dirHandle, base string) error {
	w.made[madeEntry{d.ino, base}] = true
	return w.hold(t, d)
}

// hold notes that d and all directories above it hold entries of the layer.
func (w *whiteouts) hold(t *tree, d *dirHandle) error {
	var root, st unix.Stat_t
	if w.holds[d.ino] {
		return nil
	}
	if err := unix.Fstat(t.root, &root); err != nil {
		return err
	}
	fd := d.fd
	for ino := d.ino; !w.holds[ino]; ino = st.Ino {
		w.holds[ino] = true
		if ino == root.Ino {
			break
		}
		up, err := unix.Openat(fd, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if fd != d.fd {
			_ = unix.Close(fd) // O_PATH
		}
		if err != nil {
			return err
		}
		fd = up
		if err := unix.Fstat(fd, &st); err != nil {
			_ = unix.Close(fd) // O_PATH
			return err
		}
	}
	if fd != d.fd {
		_ = unix.Close(fd) // O_PATH
	}
	return nil
}

// apply does what base asks for when it is a whiteout, and says whether it is.
func (w *whiteouts) apply(t *tree, d *dirHandle, base string) (done bool, err error) {
	switch target, ok := strings.CutPrefix(base, whiteoutPrefix); {
	case !ok:
		return false, nil
	case base == whiteoutOpaque:
		return true, w.clearBelow(d.fd, d.ino)
	case strings.HasPrefix(base, whiteoutOther):
		return true, nil
	case target == "" || target == "." || target == "..":
		return true, block.Errorf(block.Invalid, "whiteout %q names nothing that can be removed", base)
	default:
		return true, w.remove(d.fd, d.ino, target)
	}
}

// clearBelow removes what the layers below have put into an open directory.
func (w *whiteouts) clearBelow(fd int, ino uint64) error {
	names, err := listAt(fd)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := w.remove(fd, ino, name); err != nil {
			return err
		}
	}
	return nil
}

// remove removes name from an open directory, but for what this layer made.
func (w *whiteouts) remove(dirfd int, dir uint64, name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	mine := w.made[madeEntry{dir, name}]
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if mine {
			return nil
		}
		return unix.Unlinkat(dirfd, name, 0)
	}
	if !mine && !w.holds[st.Ino] {
		return removeAllAt(dirfd, name)
	}
	fd, err := unix.Openat(dirfd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // O_PATH
	return w.clearBelow(fd, st.Ino)
}

// listAt returns the names in an open directory.
func listAt(dirfd int) ([]string, error) {
	fd, err := unix.Openat(dirfd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "directory")
	defer func() { _ = f.Close() }() // read only
	names, err := f.Readdirnames(-1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}

// removeAllAt removes name and, where it is a directory, all in it. It follows
// no links.
func removeAllAt(dirfd int, name string) error {
	err := unix.Unlinkat(dirfd, name, unix.AT_REMOVEDIR)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if errors.Is(err, unix.ENOTDIR) {
		return unix.Unlinkat(dirfd, name, 0)
	}
	if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := unix.Openat(dirfd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // O_PATH
	names, err := listAt(fd)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := removeAllAt(fd, n); err != nil {
			return err
		}
	}
	return unix.Unlinkat(dirfd, name, unix.AT_REMOVEDIR)
}
