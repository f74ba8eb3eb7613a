package worker

import (
	"context"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
)

const (
	fuseFileNode  = 2
	attrValid     = time.Hour // nothing about the file ever changes
	fallocPunch   = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	fallocZero    = unix.FALLOC_FL_ZERO_RANGE
	fallocKeep    = unix.FALLOC_FL_KEEP_SIZE
	fuseMaxWrite  = 1 << 20
	maxFuseWrite  = 32 << 20 // of any version of this program
	fuseBacklog   = 128
	fuseBlockSize = block.Size
)

// fuseFS is a file system of one file, which is the export of a session. The
// requests that a block device has no use for are answered by the embedded
// default: not implemented.
type fuseFS struct {
	fuse.RawFileSystem
	session  *nbdclient.Session
	name     string // of the file
	readOnly bool
	created  time.Time
}

func newFuseFS(session *nbdclient.Session, name string, readOnly bool) *fuseFS {
	return &fuseFS{RawFileSystem: fuse.NewDefaultRawFileSystem(), session: session, name: name, readOnly: readOnly, created: time.Now()}
}

func (f *fuseFS) String() string { return "slacker" }

func (f *fuseFS) attr(node uint64, out *fuse.Attr) fuse.Status {
	t := uint64(f.created.Unix())
	*out = fuse.Attr{Ino: node, Atime: t, Mtime: t, Ctime: t, Nlink: 1, Blksize: fuseBlockSize}
	switch node {
	case fuse.FUSE_ROOT_ID:
		out.Mode, out.Nlink = unix.S_IFDIR|0o500, 2
	case fuseFileNode:
		out.Mode = unix.S_IFREG | 0o600
		if f.readOnly {
			out.Mode = unix.S_IFREG | 0o400
		}
		out.Size = f.session.Info().SizeBytes
		out.Blocks = out.Size / 512
	default:
		return fuse.ENOENT
	}
	return fuse.OK
}

// Lookup finds the file.
func (f *fuseFS) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if header.NodeId != fuse.FUSE_ROOT_ID || name != f.name {
		return fuse.ENOENT
	}
	out.NodeId = fuseFileNode
	out.SetEntryTimeout(attrValid)
	out.SetAttrTimeout(attrValid)
	return f.attr(fuseFileNode, &out.Attr)
}

// GetAttr describes the file or the directory.
func (f *fuseFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.SetTimeout(attrValid)
	return f.attr(in.NodeId, &out.Attr)
}

// SetAttr accepts what open with O_TRUNC or touch asks for and does nothing.
func (f *fuseFS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.Valid&fuse.FATTR_SIZE != 0 && in.Size != f.session.Info().SizeBytes {
		return fuse.EPERM
	}
	return f.attr(in.NodeId, &out.Attr)
}

// Open opens the file past the page cache: the loop device above has one.
func (f *fuseFS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.NodeId != fuseFileNode {
		return fuse.ENOENT
	}
	if f.readOnly && in.Flags&unix.O_ACCMODE != unix.O_RDONLY {
		return fuse.EROFS
	}
	out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES
	return fuse.OK
}

// Read reads the part of a range that lies within the volume.
func (f *fuseFS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	size := f.session.Info().SizeBytes
	if in.Offset >= size {
		return fuse.ReadResultData(nil), fuse.OK
	}
	buf = buf[:min(uint64(len(buf)), size-in.Offset)]
	if err := f.session.ReadAt(context.Background(), buf, in.Offset); err != nil {
		return nil, fuseStatus(err)
	}
	return fuse.ReadResultData(buf), fuse.OK
}

// Write writes data, all or nothing as far as the caller can tell.
func (f *fuseFS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if err := f.session.WriteAt(context.Background(), data, in.Offset, false); err != nil {
		return 0, fuseStatus(err)
	}
	return uint32(len(data)), fuse.OK
}

// Fsync makes durable what has been written.
func (f *fuseFS) Fsync(_ <-chan struct{}, _ *fuse.FsyncIn) fuse.Status {
	return fuseStatus(f.session.Flush(context.Background()))
}

// Flush is called by close(2), which promises nothing.
func (f *fuseFS) Flush(_ <-chan struct{}, _ *fuse.FlushIn) fuse.Status { return fuse.OK }

// Fallocate punches holes and zeroes ranges: discard and write zeroes of the
// loop device come as these. Both promise zeroes, which NBD's trim does not.
func (f *fuseFS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	info := f.session.Info()
	if in.Offset > info.SizeBytes || in.Length > info.SizeBytes-in.Offset {
		return fuse.Status(unix.EFBIG)
	}
	if !info.Flags.Has(nbdclient.FlagSendWriteZeroes) {
		return fuse.Status(unix.EOPNOTSUPP)
	}
	var noHole bool
	switch in.Mode {
	case fallocPunch:
	case fallocZero, fallocZero | fallocKeep:
		noHole = true
	default:
		return fuse.Status(unix.EOPNOTSUPP)
	}
	return fuseStatus(f.session.WriteZeroes(context.Background(), in.Offset, in.Length, noHole, false))
}

// StatFs tells the loop device the granularity of discards.
func (f *fuseFS) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	*out = fuse.StatfsOut{Bsize: fuseBlockSize, Frsize: fuseBlockSize, NameLen: 255, Blocks: f.session.Info().SizeBytes / fuseBlockSize}
	return fuse.OK
}

// fuseStatus maps the kind of an error to an errno.
func fuseStatus(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	switch block.KindOf(err) {
	case block.NoSpace:
		return fuse.Status(unix.ENOSPC)
	case block.Invalid:
		return fuse.EINVAL
	case block.ReadOnly, block.Permission:
		return fuse.EROFS
	case block.Unsupported:
		return fuse.Status(unix.EOPNOTSUPP)
	}
	return fuse.EIO
}
