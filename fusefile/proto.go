package fusefile

// The kernel's protocol, as far as a file that is a disk needs it.
const (
	protoMajor    = 7
	protoMinor    = 41 // the newest whose structures are known here
	protoMinMinor = 31

	opLookup     = 1
	opForget     = 2
	opGetattr    = 3
	opSetattr    = 4
	opOpen       = 14
	opRead       = 15
	opWrite      = 16
	opStatfs     = 17
	opRelease    = 18
	opFsync      = 20
	opFlush      = 25
	opInit       = 26
	opInterrupt  = 36
	opDestroy    = 38
	opBatchForg  = 42
	opFallocate  = 43
	notifyResend = 7

	flagAsyncRead = 1 << 0
	flagBigWrites = 1 << 5
	flagAsyncDIO  = 1 << 15
	flagMaxPages  = 1 << 22
	flagInitExt   = 1 << 30
	flagHasResend = 1 << 39

	openDirectIO       = 1 << 0
	openParallelWrites = 1 << 6

	setattrSize = 1 << 3

	rootNode = 1
	fileNode = 2
)

// Sizes of structures.
const (
	inHeaderBytes  = 40
	outHeaderBytes = 16
	ioBytes        = 40 // fuse_read_in, fuse_write_in
	fallocateBytes = 32
	attrBytes      = 88
	setattrBytes   = 88
	initMinBytes   = 16
)

// inHeader begins every request.
type inHeader struct {
	length, opcode uint32
	unique, node   uint64
}

type attr struct {
	Ino, Size, Blocks, Atime, Mtime, Ctime                 uint64
	AtimeNsec, MtimeNsec, CtimeNsec, Mode, Nlink, UID, GID uint32
	Rdev, Blksize, Flags                                   uint32
}

type entryOut struct {
	Node, Generation, EntryValid, AttrValid uint64
	EntryValidNsec, AttrValidNsec           uint32
	Attr                                    attr
}

type attrOut struct {
	AttrValid            uint64
	AttrValidNsec, Dummy uint32
	Attr                 attr
}

type openOut struct {
	Handle    uint64
	OpenFlags uint32
	BackingID int32
}

type statfsOut struct {
	Blocks, Bfree, Bavail, Files, Ffree uint64
	Bsize, NameLen, Frsize, Padding     uint32
	Spare                               [6]uint32
}

type initOut struct {
	Major, Minor, MaxReadahead, Flags  uint32
	MaxBackground, CongestionThreshold uint16
	MaxWrite, TimeGran                 uint32
	MaxPages, MapAlignment             uint16
	Flags2, MaxStackDepth              uint32
	RequestTimeout                     uint16
	Unused                             [11]uint16
}
