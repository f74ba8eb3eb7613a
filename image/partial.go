package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// partialSuffix names a file that is being exported.
const partialSuffix = ".partial"

// partialFile is DEST.partial, locked, until it becomes DEST. One that an
// earlier, killed export left behind is used anew.
type partialFile struct {
	f     *os.File
	dest  string
	force bool
}

func createPartial(dest string, force bool) (*partialFile, error) {
	st, err := os.Lstat(dest)
	switch {
	case err == nil && !st.Mode().IsRegular():
		return nil, block.Errorf(block.Invalid, "export to %s: it is a %s: want a file name", dest, kindOfFile(st.Mode()))
	case err == nil && !force:
		return nil, existsError(dest)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, openError(dest, err)
	}
	path := dest + partialSuffix
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return nil, openError(path, err)
	}
	p := &partialFile{f: f, dest: dest, force: force}
	if err := p.own(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return p, nil
}

// own locks the file against other exports and empties it.
func (p *partialFile) own() error {
	path := p.f.Name()
	if err := unix.Flock(int(p.f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return block.Errorf(block.Busy, "export to %s: another export is writing %s: %w", p.dest, path, err)
	}
	mine, err := p.f.Stat()
	if err != nil {
		return openError(path, err)
	}
	now, err := os.Lstat(path)
	if err != nil || !os.SameFile(mine, now) { // the other one has just finished
		return block.Errorf(block.Busy, "export to %s: another export has written it at the same time", p.dest)
	}
	if !mine.Mode().IsRegular() {
		return block.Errorf(block.Invalid, "export to %s: %s is a %s: remove it", p.dest, path, kindOfFile(mine.Mode()))
	}
	if err := p.f.Truncate(0); err != nil {
		return writeError(path, err)
	}
	return nil
}

// discard removes the file. The error that led here is the one to report.
func (p *partialFile) discard() {
	_ = os.Remove(p.f.Name())
	_ = p.f.Close()
}

// publish syncs the file and gives it its name.
func (p *partialFile) publish() error {
	path := p.f.Name()
	if err := p.f.Sync(); err != nil {
		p.discard()
		return writeError(path, err)
	}
	flags := uint(unix.RENAME_NOREPLACE)
	if p.force {
		flags = 0
	}
	if err := unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, p.dest, flags); err != nil {
		p.discard()
		if errors.Is(err, fs.ErrExist) {
			return existsError(p.dest)
		}
		return block.Errorf(block.IO, "rename %s to %s: %w", path, p.dest, err)
	}
	if err := p.f.Close(); err != nil {
		return writeError(p.dest, err)
	}
	return syncDir(filepath.Dir(p.dest))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return openError(dir, err)
	}
	err = d.Sync()
	_ = d.Close() // read only
	if err != nil {
		return block.Errorf(block.IO, "sync %s: %w", dir, err)
	}
	return nil
}

func existsError(dest string) error {
	return block.Errorf(block.Exists, "export to %s: it exists already: want a new name, or to be told to replace it", dest)
}
