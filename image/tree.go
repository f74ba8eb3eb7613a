package image

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// Limits on what is unpacked.
const (
	// maxFileBytes is the size of the largest file that ext4 holds.
	maxFileBytes = 16 << 40
	// maxUnpackedBytes bounds the sizes of all files of a source together, also
	// of those that are mostly holes: a few bytes of an archive can claim any
	// number.
	maxUnpackedBytes = 64 << 40
	// maxFiles bounds the entries of all layers together.
	maxFiles = 1 << 24
	// maxPathBytes bounds a name in an archive.
	maxPathBytes = 4096
	// maxXattrBytes bounds one extended attribute, as Linux does.
	maxXattrBytes = 64 << 10
)

// inTree is how every path of an archive is resolved: the tree is its root for
// the kernel too, so that neither "..", nor a link, relative or absolute, leads
// out of it.
const inTree = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// tree is the staging directory.
type tree struct {
	dir  string
	root int // O_PATH
	// The directory of the entry before, since most entries share it.
	lastDir   string
	last      *dirHandle
	dirTimes  []dirTime
	guard     *spaceGuard
	files     uint64 // entries so far, of all layers
	bytes     uint64 // their sizes
	warnings  []string
	dropped   int  // warnings beyond maxWarnings
	rootGiven bool // an entry has described the root directory
}

// maxWarnings bounds what is told of a source's oddities.
const maxWarnings = 20

// dirTime is a modification time that is set once nothing more is put into
// the directory.
type dirTime struct {
	path  string
	times [2]unix.Timespec
}

// dirHandle is an open directory of the tree.
type dirHandle struct {
	fd  int
	ino uint64
}

func (w *workspace) newTree() (*tree, error) {
	if os.Geteuid() != 0 {
		return nil, block.Errorf(block.Permission, "unpacking files needs root, to keep their owners, devices and attributes: run it with sudo")
	}
	dir, err := w.path("tree")
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, openError(dir, err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		return nil, openError(dir, err)
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(dir, err)
	}
	return &tree{dir: dir, root: root, guard: w.guard()}, nil
}

func (t *tree) close() error {
	t.forget()
	if err := unix.Close(t.root); err != nil {
		return block.Errorf(block.IO, "close %s: %w", t.dir, err)
	}
	return nil
}

func (t *tree) warn(text string) {
	if len(t.warnings) == maxWarnings {
		t.dropped++
		return
	}
	t.warnings = append(t.warnings, text)
}

// cleanName makes a name of an archive relative to the root: "." is the root.
func cleanName(name string) (string, error) {
	if len(name) > maxPathBytes {
		return "", block.Errorf(block.Invalid, "entry %.60q...: a name of %d bytes, want at most %d", name, len(name), maxPathBytes)
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", block.Errorf(block.Invalid, "entry %q: it would lie outside the root: want names without leading ..", name)
	}
	return clean, nil
}

// resolve opens a directory of the tree by its path, with O_PATH, following
// links within the tree.
func (t *tree) resolve(dir string) (*dirHandle, error) {
	fd, err := unix.Openat2(t.root, dir, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: inTree})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return nil, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	return &dirHandle{fd, st.Ino}, nil
}

// parent opens the directory that holds name, and makes it where it is
// missing. The handle is the tree's, and valid until the next call.
func (t *tree) parent(name string) (*dirHandle, error) {
	dir := path.Dir(name)
	if t.last != nil && t.lastDir == dir {
		return t.last, nil
	}
	t.forget()
	d, err := t.resolve(dir)
	if errors.Is(err, fs.ErrNotExist) {
		d, err = t.makeAll(dir)
	}
	if err != nil {
		return nil, err
	}
	t.lastDir, t.last = dir, d
	return d, nil
}

// forget closes the directory kept open. It is called when a path may come to
// mean something else.
func (t *tree) forget() {
	if t.last != nil {
		_ = unix.Close(t.last.fd) // O_PATH
		t.last = nil
	}
}

// makeAll makes the directories of a path that the archive did not.
func (t *tree) makeAll(dir string) (*dirHandle, error) {
	d, err := t.resolve(".")
	if err != nil {
		return nil, err
	}
	at := "."
	for part := range strings.SplitSeq(dir, "/") {
		at = path.Join(at, part)
		next, err := t.resolve(at)
		if errors.Is(err, fs.ErrNotExist) {
			if err = unix.Mkdirat(d.fd, part, 0o755); err == nil {
				err = chmodAt(d.fd, part, 0o755)
			}
			if err == nil {
				next, err = t.resolve(at)
			}
		}
		_ = unix.Close(d.fd) // O_PATH
		if err != nil {
			return nil, &fs.PathError{Op: "mkdir", Path: at, Err: err}
		}
		d = next
	}
	return d, nil
}

// chmodAt sets the mode of what is no symbolic link. fchmodat cannot be told
// not to follow one, and the caller has just made the thing.
func chmodAt(dirfd int, name string, mode uint32) error {
	return unix.Fchmodat(dirfd, name, mode, 0)
}

// setTimes gives the directories their times.
func (t *tree) setTimes() error {
	t.forget()
	for _, d := range t.dirTimes {
		h, err := t.resolve(d.path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue // a later layer has removed it
		}
		if err != nil {
			return treeError(d.path, err)
		}
		err = unix.UtimesNanoAt(unix.AT_FDCWD, procFD(h.fd), d.times[:], 0)
		_ = unix.Close(h.fd) // O_PATH
		if err != nil {
			return treeError(d.path, err)
		}
	}
	return nil
}

// treeError gives an error of putting an entry into the tree its kind.
func treeError(name string, err error) error {
	var known *block.Error
	if errors.As(err, &known) {
		return err
	}
	kind := block.IO
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		kind = block.NoSpace
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		kind = block.Permission
	case errors.Is(err, unix.ENOTSUP):
		kind = block.Unsupported
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EEXIST),
		errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EXDEV), errors.Is(err, unix.EISDIR):
		kind = block.Invalid // the archive's own doing
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return block.Errorf(kind, "unpack %q: %s %q: %w", name, pe.Op, pe.Path, pe.Err)
	}
	return block.Errorf(kind, "unpack %q: %w", name, err)
}

func isDirectory(p string) (bool, error) {
	st, err := os.Stat(p)
	if err != nil {
		return false, openError(p, err)
	}
	return st.IsDir(), nil
}
