package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// xattrRecord is what the names of extended attributes begin with in the
// extended headers of tar archives.
const xattrRecord = "SCHILY.xattr."

// aclRecord begins access control lists in text, which are not kept.
const aclRecord = "SCHILY.acl."

// unpack puts the entries of a tar archive into the tree. With wh, the
// archive is a layer of a container image and its whiteouts are applied. It
// returns at the end of the archive, not of r.
func (t *tree) unpack(ctx context.Context, r io.Reader, name string, wh *whiteouts) error {
	tr := tar.NewReader(r)
	buf := make([]byte, chunkBytes)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return tarError(err, name)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := t.entry(tr, h, buf, wh); err != nil {
			return block.Wrap(block.Invalid, tarError(treeError(h.Name, err), name), name)
		}
	}
}

// entry puts one entry into the tree, in place of what is there.
func (t *tree) entry(r io.Reader, h *tar.Header, buf []byte, wh *whiteouts) error {
	if err := t.count(h); err != nil {
		return err
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if name == "." {
		return t.rootEntry(h)
	}
	d, err := t.parent(name)
	if err != nil {
		return err
	}
	base := path.Base(name)
	if wh != nil {
		if done, err := wh.apply(t, d, base); done || err != nil {
			return err
		}
	}
	made, err := t.create(r, h, name, d, base, buf)
	if err != nil || !made {
		return err
	}
	if h.Typeflag != tar.TypeLink { // which has what its target has
		if err := t.describe(h, name, d.fd, base); err != nil {
			return err
		}
	}
	if wh == nil {
		return nil
	}
	return wh.record(t, d, base)
}

// count keeps the limits.
func (t *tree) count(h *tar.Header) error {
	if t.files++; t.files > maxFiles {
		return block.Errorf(block.Invalid, "more than %d entries: that is more than can be imported", maxFiles)
	}
	if h.Size < 0 || h.Size > maxFileBytes {
		return block.Errorf(block.Invalid, "entry %q has %d bytes: want at most %d", h.Name, h.Size, int64(maxFileBytes))
	}
	if h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeCont || h.Typeflag == tar.TypeGNUSparse {
		t.bytes += uint64(h.Size)
	}
	if t.bytes > maxUnpackedBytes {
		return block.Errorf(block.Invalid, "the files have more than %d bytes: that is more than can be imported", uint64(maxUnpackedBytes))
	}
	return nil
}

// rootEntry describes the root directory itself.
func (t *tree) rootEntry(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return block.Errorf(block.Invalid, "entry %q: the root is a directory, got type %q", h.Name, h.Typeflag)
	}
	t.rootGiven = true
	return t.describe(h, ".", t.root, ".")
}

// create makes the thing that h describes, without its owner and mode, and
// reports whether it did.
func (t *tree) create(r io.Reader, h *tar.Header, name string, d *dirHandle, base string, buf []byte) (made bool, err error) {
	var mode uint32
	switch h.Typeflag {
	case tar.TypeDir:
		return true, t.makeDir(d, base)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return true, t.makeFile(r, h, d, base, buf)
	case tar.TypeLink:
		return true, t.makeLink(h, name, d, base)
	case tar.TypeSymlink:
		if err := t.clear(d, base); err != nil {
			return false, err
		}
		return true, unix.Symlinkat(h.Linkname, d.fd, base)
	case tar.TypeChar:
		mode = unix.S_IFCHR
	case tar.TypeBlock:
		mode = unix.S_IFBLK
	case tar.TypeFifo:
		mode = unix.S_IFIFO
	default:
		t.warn(fmt.Sprintf("entry %q of the unknown type %q is left out", h.Name, h.Typeflag))
		return false, nil
	}
	if err := t.clear(d, base); err != nil {
		return false, err
	}
	if h.Devmajor < 0 || h.Devmajor > math.MaxUint32 || h.Devminor < 0 || h.Devminor > math.MaxUint32 {
		return false, block.Errorf(block.Invalid, "entry %q: no device %d:%d", h.Name, h.Devmajor, h.Devminor)
	}
	dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	return true, unix.Mknodat(d.fd, base, mode|0o600, int(dev))
}

// clear removes what is in the place of a new entry.
func (t *tree) clear(d *dirHandle, base string) error {
	err := unix.Unlinkat(d.fd, base, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
		return removeAllAt(d.fd, base)
	}
	return err
}

func (t *tree) makeDir(d *dirHandle, base string) error {
	err := unix.Mkdirat(d.fd, base, 0o700)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil // and gets the new owner, mode and times
	}
	if err := t.clear(d, base); err != nil {
		return err
	}
	return unix.Mkdirat(d.fd, base, 0o700)
}

func (t *tree) makeFile(r io.Reader, h *tar.Header, d *dirHandle, base string, buf []byte) error {
	if err := t.clear(d, base); err != nil {
		return err
	}
	fd, err := unix.Openat(d.fd, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), h.Name)
	w := &sparseWriter{f: f, guard: t.guard}
	_, err = io.CopyBuffer(onlyWriter{w}, onlyReader{r}, buf)
	if err == nil {
		err = w.finish()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil && w.off != h.Size {
		err = io.ErrUnexpectedEOF
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return block.Errorf(block.Corrupt, "ends early: want %d bytes of %q, got %d", h.Size, h.Name, w.off)
	}
	return err
}

// onlyReader hides other methods, so that io.CopyBuffer uses its buffer.
type onlyReader struct{ io.Reader }

// makeLink makes a hard link to an entry that came before.
func (t *tree) makeLink(h *tar.Header, name string, d *dirHandle, base string) error {
	target, err := cleanName(h.Linkname)
	if err != nil {
		return err
	}
	if target == name {
		return nil
	}
	from, err := t.resolve(path.Dir(target))
	if err != nil {
		return block.Errorf(block.Invalid, "hard link %q to %q, which is not there: %w", h.Name, h.Linkname, err)
	}
	defer func() { _ = unix.Close(from.fd) }() // O_PATH
	var have, want unix.Stat_t
	if err := unix.Fstatat(from.fd, path.Base(target), &want, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return block.Errorf(block.Invalid, "hard link %q to %q, which is not there: %w", h.Name, h.Linkname, err)
	}
	if err := unix.Fstatat(d.fd, base, &have, unix.AT_SYMLINK_NOFOLLOW); err == nil && have.Ino == want.Ino {
		return nil
	}
	if err := t.clear(d, base); err != nil {
		return err
	}
	return unix.Linkat(from.fd, path.Base(target), d.fd, base, 0)
}

// describe gives an entry its owner, mode, attributes and times, in this
// order: a change of owner drops the set-id bits and the capabilities.
func (t *tree) describe(h *tar.Header, name string, dirfd int, base string) error {
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > math.MaxUint32-1 || int64(h.Gid) > math.MaxUint32-1 {
		return block.Errorf(block.Invalid, "entry %q belongs to %d:%d: want ids from 0 to %d", h.Name, h.Uid, h.Gid, uint32(math.MaxUint32-1))
	}
	if err := unix.Fchownat(dirfd, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set its owner %d:%d: %w", h.Uid, h.Gid, err)
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := chmodAt(dirfd, base, uint32(h.Mode)&0o7777); err != nil {
			return fmt.Errorf("set its mode: %w", err)
		}
	}
	if err := t.setXattrs(h, procFD(dirfd)+"/"+base); err != nil {
		return err
	}
	times := [2]unix.Timespec{timespec(h.AccessTime, h.ModTime), timespec(h.ModTime, h.ModTime)}
	if h.Typeflag == tar.TypeDir {
		t.dirTimes = append(t.dirTimes, dirTime{name, times})
		return nil
	}
	if err := unix.UtimesNanoAt(dirfd, base, times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set its times: %w", err)
	}
	return nil
}

// procFD is a path to an open directory, for calls that take no descriptor.
func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func timespec(t, otherwise time.Time) unix.Timespec {
	if t.IsZero() || t.Unix() == 0 && t.Nanosecond() == 0 {
		t = otherwise
	}
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

func (t *tree) setXattrs(h *tar.Header, file string) error {
	for record, value := range h.PAXRecords {
		if strings.HasPrefix(record, aclRecord) {
			t.warn(fmt.Sprintf("entry %q: its access control list is not kept", h.Name))
			continue
		}
		attr, ok := strings.CutPrefix(record, xattrRecord)
		if !ok {
			continue
		}
		if len(value) > maxXattrBytes {
			return block.Errorf(block.Invalid, "attribute %q has %d bytes: want at most %d", attr, len(value), maxXattrBytes)
		}
		if err := unix.Lsetxattr(file, attr, []byte(value), 0); err != nil {
			return fmt.Errorf("set its attribute %q: %w", attr, err)
		}
	}
	return nil
}
