package image

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// LayerWriter writes a layer of a container image: the tar archive of what
// changed, with whiteouts for what went. The same changes, given in the same
// order, give the same bytes: owners are numbers, and times whole seconds,
// since readers differ in what they do with the fractions.
//
// It is not safe for concurrent use, and of no use after an error.
type LayerWriter struct {
	tw *tar.Writer
	// notAfter is the latest modification time, for what is made anew each time
	// it is built; zero is any.
	notAfter time.Time
	links    map[fileID]string // files of several names that are in the archive
	bytes    uint64
}

// fileID is a file whatever its name.
type fileID struct{ dev, ino uint64 }

// NewLayerWriter writes to w. Modification times after notAfter become
// notAfter, unless it is zero.
func NewLayerWriter(w io.Writer, notAfter time.Time) *LayerWriter {
	return &LayerWriter{tw: tar.NewWriter(w), notAfter: notAfter, links: map[fileID]string{}}
}

// Add writes the file, directory, link or device at file, as name, relative to
// the root. Of a directory it writes the entry alone. Sockets are left out.
// Later names of a file that was added before become links to its first one,
// so they have to be names of the same root.
func (l *LayerWriter) Add(file, name string) error {
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); err != nil {
		return openError(file, err)
	}
	h, err := l.header(file, name, &st)
	if h == nil || err != nil {
		return err
	}
	if h.Typeflag == tar.TypeReg && st.Nlink > 1 {
		id := fileID{st.Dev, st.Ino}
		if first, known := l.links[id]; known {
			h.Typeflag, h.Linkname, h.Size, h.PAXRecords = tar.TypeLink, first, 0, nil
		} else {
			l.links[id] = h.Name
		}
	}
	if err := l.tw.WriteHeader(h); err != nil {
		return block.Errorf(block.IO, "layer entry %q: %w", name, err)
	}
	if h.Typeflag != tar.TypeReg || h.Size == 0 {
		return nil
	}
	return l.content(file, h)
}

// header describes a file; it is nil for what a layer cannot hold.
func (l *LayerWriter) header(file, name string, st *unix.Stat_t) (*tar.Header, error) {
	h := &tar.Header{
		Name: strings.TrimPrefix(name, "/"), Format: tar.FormatPAX, Mode: int64(st.Mode & 0o7777),
		Uid: int(st.Uid), Gid: int(st.Gid), ModTime: time.Unix(st.Mtim.Sec, 0),
	}
	if !l.notAfter.IsZero() && h.ModTime.After(l.notAfter) {
		h.ModTime = l.notAfter
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
		h.Name = strings.TrimSuffix(h.Name, "/") + "/"
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		var err error
		if h.Linkname, err = os.Readlink(file); err != nil {
			return nil, openError(file, err)
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		return nil, nil
	}
	attrs, err := layerXattrs(file)
	if err != nil {
		return nil, openError(file, err)
	}
	h.PAXRecords = attrs
	return h, nil
}

// content writes the bytes of a file, which must be those that its header
// states: a file that grows or shrinks meanwhile is an error.
func (l *LayerWriter) content(file string, h *tar.Header) error {
	f, err := openFile(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	n, err := io.CopyN(l.tw, f, h.Size)
	l.bytes += uint64(n)
	if err != nil {
		return block.Errorf(block.IO, "layer entry %q: %d of %d bytes: %w", h.Name, n, h.Size, err)
	}
	return nil
}

// Whiteout removes name, and all below it, of the layers below this one.
func (l *LayerWriter) Whiteout(name string) error {
	dir, base := path.Split(strings.TrimPrefix(name, "/"))
	return l.empty(dir + whiteoutPrefix + base)
}

// Opaque removes all that the layers below this one put into the directory
// name. It has to come before what this layer puts there.
func (l *LayerWriter) Opaque(name string) error {
	return l.empty(path.Join(strings.TrimPrefix(name, "/"), whiteoutOpaque))
}

func (l *LayerWriter) empty(name string) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Format: tar.FormatPAX, ModTime: time.Unix(0, 0)}
	if err := l.tw.WriteHeader(h); err != nil {
		return block.Errorf(block.IO, "layer entry %q: %w", name, err)
	}
	return nil
}

// Close ends the archive. It does not close what is written to.
func (l *LayerWriter) Close() error {
	return block.Wrap(block.IO, l.tw.Close(), "end the layer")
}

// Bytes is the size of the files' contents so far.
func (l *LayerWriter) Bytes() uint64 { return l.bytes }

// layerXattrs returns the extended attributes that a layer carries: those of
// users, and capabilities. Others are of the file system it is read from.
func layerXattrs(file string) (map[string]string, error) {
	size, err := unix.Llistxattr(file, nil)
	if err != nil || size == 0 {
		if err == unix.ENOTSUP || err == unix.EPERM {
			err = nil
		}
		return nil, err
	}
	names := make([]byte, size)
	if size, err = unix.Llistxattr(file, names); err != nil {
		return nil, err
	}
	var attrs map[string]string
	for name := range bytes.SplitSeq(names[:size], []byte{0}) {
		attr := string(name)
		if attr != "security.capability" && !strings.HasPrefix(attr, "user.") {
			continue
		}
		value := make([]byte, maxXattrBytes)
		n, err := unix.Lgetxattr(file, attr, value)
		if err != nil {
			return nil, err
		}
		if attrs == nil {
			attrs = map[string]string{}
		}
		attrs[xattrRecord+attr] = string(value[:n])
	}
	return attrs, nil
}
