package image

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// rawFile is a file or block device as content.
type rawFile struct {
	f    *os.File
	size uint64
	name string
	// dense is set once SEEK_DATA turned out not to work.
	dense bool
}

func openRaw(path string) (content, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	// A block device states no size in its inode; seeking works for both.
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		_ = f.Close()
		return nil, block.Errorf(block.IO, "size of %s: %w", path, err)
	}
	return &rawFile{f: f, size: uint64(size), name: path}, nil
}

// openFile opens a regular file or block device for reading. It never waits,
// as opening a FIFO would.
func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() && st.Mode()&(fs.ModeDevice|fs.ModeCharDevice) != fs.ModeDevice {
		err = block.Errorf(block.Invalid, "%s is a %s: want a file or a block device", path, kindOfFile(st.Mode()))
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// openError says why path cannot be used.
func openError(path string, err error) error {
	kind := block.KindOfFile(err)
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return block.Errorf(kind, "open %s: %w", path, err)
}

func kindOfFile(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "directory"
	case m&fs.ModeNamedPipe != 0:
		return "FIFO"
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeCharDevice != 0:
		return "character device"
	case m&fs.ModeDevice != 0:
		return "block device"
	case m&fs.ModeSymlink != 0:
		return "symbolic link"
	}
	return "file"
}

func (r *rawFile) sizeBytes() uint64 { return r.size }
func (r *rawFile) close() error      { return r.f.Close() }

func (r *rawFile) readAt(p []byte, offBytes uint64) error { return readFull(r.f, p, offBytes, r.name) }

func (r *rawFile) nextData(offBytes uint64) (start, end uint64, err error) {
	if r.dense {
		return offBytes, r.size, nil
	}
	data, err := unix.Seek(int(r.f.Fd()), int64(offBytes), unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return r.size, r.size, nil
	case err != nil: // not every file system and device can
		r.dense = true
		return offBytes, r.size, nil
	}
	hole, err := unix.Seek(int(r.f.Fd()), data, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, block.Errorf(block.IO, "find the hole after offset %d of %s: %w", data, r.name, err)
	}
	// A file may grow while it is read: what it has more than at first is not
	// looked at.
	return min(uint64(data), r.size), min(uint64(hole), r.size), nil
}
