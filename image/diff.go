package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// treeDiff writes what distinguishes one tree from another as a layer. What is
// the same is found by comparing all that a layer carries, contents too: times
// and inode numbers can be alike by chance in trees that were made apart.
type treeDiff struct {
	ctx          context.Context
	lower, upper string // lower is empty for a layer of the whole tree
	out          *LayerWriter
	files        uint64
	progress     Progress
	// linked are the files of several names of which one changed: all their
	// names are written, so that they are one file again.
	linked   map[uint64]bool
	counting bool // the walk looks for linked, and writes nothing
}

// writeDiff writes the layer that makes upper of lower.
func (d *treeDiff) write() error {
	d.linked = map[uint64]bool{}
	if d.lower != "" {
		d.counting = true
		if err := d.dir("."); err != nil {
			return err
		}
		d.counting = false
	}
	if err := d.root(); err != nil {
		return err
	}
	if err := d.dir("."); err != nil {
		return err
	}
	return d.out.Close()
}

// root writes the entry of the root directory, where it changed.
func (d *treeDiff) root() error {
	if d.lower != "" {
		same, err := sameFile(d.lower, d.upper)
		if same || err != nil {
			return err
		}
	}
	return d.add(".")
}

// dir compares a directory that both trees have.
func (d *treeDiff) dir(name string) error {
	if err := d.ctx.Err(); err != nil {
		return err
	}
	below, err := d.list(d.lower, name)
	if err != nil {
		return err
	}
	above, err := d.list(d.upper, name)
	if err != nil {
		return err
	}
	all := map[string]bool{}
	for _, n := range slices.Concat(below, above) {
		all[n] = true
	}
	for _, base := range slices.Sorted(maps.Keys(all)) {
		_, wasThere := slices.BinarySearch(below, base)
		_, isThere := slices.BinarySearch(above, base)
		if err := d.entry(filepath.Join(name, base), wasThere, isThere); err != nil {
			return err
		}
	}
	return nil
}

// list returns the names of a directory, in order. The directory in which
// mke2fs keeps room for e2fsck is no content.
func (d *treeDiff) list(root, name string) ([]string, error) {
	if root == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(filepath.Join(root, name))
	if err != nil {
		return nil, openError(filepath.Join(root, name), err)
	}
	var names []string
	for _, e := range entries {
		if name == "." && e.Name() == "lost+found" && e.IsDir() {
			continue
		}
		names = append(names, e.Name())
	}
	return names, nil
}

// entry compares one name.
func (d *treeDiff) entry(name string, wasThere, isThere bool) error {
	if !isThere {
		if d.counting {
			return nil
		}
		return d.out.Whiteout(name)
	}
	if !wasThere {
		return d.addAll(name)
	}
	lower, upper := filepath.Join(d.lower, name), filepath.Join(d.upper, name)
	same, err := sameFile(lower, upper)
	if err != nil {
		return err
	}
	wasDir, isDir, err := areDirs(lower, upper)
	if err != nil {
		return err
	}
	if isDir && !wasDir {
		return d.addAll(name)
	}
	if !same || d.isLinked(upper, isDir) {
		if err := d.add(name); err != nil {
			return err
		}
	}
	if isDir {
		return d.dir(name)
	}
	return nil
}

func (d *treeDiff) isLinked(path string, isDir bool) bool {
	var st unix.Stat_t
	return len(d.linked) > 0 && !isDir && unix.Lstat(path, &st) == nil && st.Nlink > 1 && d.linked[st.Ino]
}

// addAll adds what is new, with all below it.
func (d *treeDiff) addAll(name string) error {
	return filepath.WalkDir(filepath.Join(d.upper, name), func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = d.ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(d.upper, path)
		if err != nil {
			return err
		}
		return d.add(rel)
	})
}

// add writes one entry, or notes in the first walk that it will.
func (d *treeDiff) add(name string) error {
	path := filepath.Join(d.upper, name)
	if d.counting {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return openError(path, err)
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			d.linked[st.Ino] = true
		}
		return nil
	}
	if strings.HasPrefix(filepath.Base(name), whiteoutPrefix) {
		return block.Errorf(block.Invalid, "%s: in a layer a name with %s in front removes a file: rename it", name, whiteoutPrefix)
	}
	if err := d.out.Add(path, name); err != nil {
		return err
	}
	d.files++
	d.progress(PhasePack, d.out.Bytes(), 0)
	return nil
}

func areDirs(lower, upper string) (wasDir, isDir bool, err error) {
	var a, b unix.Stat_t
	if err := unix.Lstat(lower, &a); err != nil {
		return false, false, openError(lower, err)
	}
	if err := unix.Lstat(upper, &b); err != nil {
		return false, false, openError(upper, err)
	}
	return a.Mode&unix.S_IFMT == unix.S_IFDIR, b.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// sameFile says whether two files are alike in all that a layer carries.
func sameFile(lower, upper string) (bool, error) {
	var a, b unix.Stat_t
	if err := unix.Lstat(lower, &a); err != nil {
		return false, openError(lower, err)
	}
	if err := unix.Lstat(upper, &b); err != nil {
		return false, openError(upper, err)
	}
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Rdev != b.Rdev || a.Mtim != b.Mtim {
		return false, nil
	}
	kind := a.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && (a.Size != b.Size || a.Nlink != b.Nlink) {
		return false, nil
	}
	if kind == unix.S_IFLNK {
		x, errA := os.Readlink(lower)
		y, errB := os.Readlink(upper)
		if err := errors.Join(errA, errB); err != nil || x != y {
			return false, err
		}
	}
	x, err := layerXattrs(lower)
	if err != nil {
		return false, openError(lower, err)
	}
	y, err := layerXattrs(upper)
	if err != nil {
		return false, openError(upper, err)
	}
	if !maps.Equal(x, y) {
		return false, nil
	}
	if kind != unix.S_IFREG {
		return true, nil
	}
	return sameContent(lower, upper)
}

func sameContent(lower, upper string) (bool, error) {
	a, err := openFile(lower)
	if err != nil {
		return false, err
	}
	defer func() { _ = a.Close() }() // read only
	b, err := openFile(upper)
	if err != nil {
		return false, err
	}
	defer func() { _ = b.Close() }() // read only
	x, y := make([]byte, 256<<10), make([]byte, 256<<10)
	for {
		n, errA := io.ReadFull(a, x)
		m, errB := io.ReadFull(b, y)
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		if errA == nil && errB == nil {
			continue
		}
		for _, err := range []error{errA, errB} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return false, block.Wrap(block.IO, err, "compare "+upper)
			}
		}
		return true, nil
	}
}
