package fusefile

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// describe answers the requests about the file and the directory. Those that a
// disk has no use for are not implemented.
func (s *Server) describe(h inHeader, body []byte) {
	u := h.unique
	switch h.opcode {
	case opForget, opBatchForg: // take no answer
	case opDestroy, opRelease, opFlush: // closing promises nothing
		s.refuse(u, 0)
	case opLookup:
		s.lookup(h, body)
	case opGetattr:
		s.getattr(h)
	case opSetattr: // open with O_TRUNC and touch ask for it
		if len(body) < setattrBytes {
			s.refuse(u, unix.EINVAL)
		} else if binary.NativeEndian.Uint32(body)&setattrSize != 0 && binary.NativeEndian.Uint64(body[16:]) != s.export.Info().SizeBytes {
			s.refuse(u, unix.EPERM)
		} else {
			s.getattr(h)
		}
	case opOpen:
		s.open(h, body)
	case opStatfs: // tells the loop device the granularity of discards
		s.sent(s.device.answer(u, &statfsOut{Bsize: fuseBlockSize, Frsize: fuseBlockSize, NameLen: 255, Blocks: s.export.Info().SizeBytes / fuseBlockSize}))
	default:
		s.refuse(u, unix.ENOSYS)
	}
}

func (s *Server) attr(node uint64) (attr, bool) {
	a := attr{Ino: node, Atime: s.created, Mtime: s.created, Ctime: s.created, Nlink: 1, Blksize: fuseBlockSize}
	switch node {
	case rootNode:
		a.Mode, a.Nlink = unix.S_IFDIR|0o500, 2
	case fileNode:
		a.Mode = unix.S_IFREG | 0o600
		if s.readOnly {
			a.Mode = unix.S_IFREG | 0o400
		}
		a.Size = s.export.Info().SizeBytes
		a.Blocks = a.Size / 512
	default:
		return attr{}, false
	}
	return a, true
}

func (s *Server) getattr(h inHeader) {
	a, ok := s.attr(h.node)
	if !ok {
		s.refuse(h.unique, unix.ENOENT)
		return
	}
	s.sent(s.device.answer(h.unique, &attrOut{AttrValid: attrSeconds, Attr: a}))
}

func (s *Server) lookup(h inHeader, body []byte) {
	name, _, ended := bytes.Cut(body, []byte{0})
	if !ended || h.node != rootNode || string(name) != s.name {
		s.refuse(h.unique, unix.ENOENT)
		return
	}
	a, _ := s.attr(fileNode)
	s.sent(s.device.answer(h.unique, &entryOut{Node: fileNode, EntryValid: attrSeconds, AttrValid: attrSeconds, Attr: a}))
}

// open opens the file past the page cache: the loop device above has one.
func (s *Server) open(h inHeader, body []byte) {
	switch {
	case len(body) < 4:
		s.refuse(h.unique, unix.EINVAL)
	case h.node != fileNode:
		s.refuse(h.unique, unix.ENOENT)
	case s.readOnly && binary.NativeEndian.Uint32(body)&unix.O_ACCMODE != unix.O_RDONLY:
		s.refuse(h.unique, unix.EROFS)
	default:
		s.sent(s.device.answer(h.unique, &openOut{OpenFlags: openDirectIO | openParallelWrites}))
	}
}
