package fusefile

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// parse splits a message into its header and the rest, of the length that the
// header says.
func parse(p []byte) (inHeader, []byte, error) {
	if len(p) < inHeaderBytes {
		return inHeader{}, nil, block.Errorf(block.IO, "FUSE message of %d bytes, want at least %d", len(p), inHeaderBytes)
	}
	h := inHeader{length: binary.NativeEndian.Uint32(p), opcode: binary.NativeEndian.Uint32(p[4:]),
		unique: binary.NativeEndian.Uint64(p[8:]), node: binary.NativeEndian.Uint64(p[16:])}
	if int64(h.length) != int64(len(p)) {
		return inHeader{}, nil, block.Errorf(block.IO, "FUSE message of %d bytes says that it has %d", len(p), h.length)
	}
	return h, p[inHeaderBytes:], nil
}

// putHeader begins an answer of so many bytes in all.
func putHeader(p []byte, unique uint64, errno unix.Errno, bytes int) {
	binary.NativeEndian.PutUint32(p[0:], uint32(bytes))
	binary.NativeEndian.PutUint32(p[4:], uint32(-int32(errno)))
	binary.NativeEndian.PutUint64(p[8:], unique)
}

// write sends an answer. The request may have been withdrawn, or all unmounted.
func (d *Device) write(p []byte) error {
	for {
		_, err := unix.Write(d.fd, p)
		switch err {
		case unix.EINTR:
		case nil, unix.ENOENT, unix.ENODEV:
			return nil
		default:
			return block.Errorf(block.IO, "answer a FUSE request: %w", err)
		}
	}
}

func (d *Device) answerError(unique uint64, errno unix.Errno) error {
	var p [outHeaderBytes]byte
	putHeader(p[:], unique, errno, len(p))
	return d.write(p[:])
}

// answer sends a structure, which has no padding and a fixed size.
func (d *Device) answer(unique uint64, out any) error {
	p, err := binary.Append(make([]byte, outHeaderBytes, 256), binary.NativeEndian, out)
	if err != nil {
		return block.Errorf(block.Internal, "answer a FUSE request: %w", err)
	}
	putHeader(p, unique, 0, len(p))
	return d.write(p)
}

// errnoOf maps the kind of an error to an errno.
func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &errno):
		return errno
	}
	switch block.KindOf(err) {
	case block.NoSpace:
		return unix.ENOSPC
	case block.Invalid:
		return unix.EINVAL
	case block.ReadOnly, block.Permission:
		return unix.EROFS
	case block.Unsupported:
		return unix.EOPNOTSUPP
	}
	return unix.EIO
}
