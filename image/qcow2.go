package image

import (
	"bufio"
	"compress/flate"
	"encoding/binary"
	"errors"
	"io"
	"math/bits"

	"github.com/klauspost/compress/zstd"
	qcow2image "github.com/lima-vm/go-qcow2reader/image"
	"github.com/lima-vm/go-qcow2reader/image/qcow2"

	"github.com/slackerd/slacker/block"
)

// Limits on qcow2 headers, as QEMU has them.
const (
	qcow2MinClusterBits    = 9
	qcow2MaxClusterBits    = 21
	qcow2MaxL1Bytes        = 32 << 20
	qcow2HeaderBytes       = 112 // what is looked at; version 2 has 72
	qcow2V2HeaderBytes     = 72
	qcow2V3HeaderBytes     = 104
	qcow2MaxExtensionBytes = 4096
	qcow2MaxExtensions     = 32
)

// convertHint ends what refuses an image that qemu-img can make readable.
const convertHint = "convert it first: qemu-img convert -O qcow2 IN OUT"

func init() {
	qcow2.SetDecompressor(qcow2.CompressionTypeZlib, func(r io.Reader) (io.ReadCloser, error) {
		return fullReader{flate.NewReader(bufio.NewReader(r))}, nil
	})
	qcow2.SetDecompressor(qcow2.CompressionTypeZstd, func(r io.Reader) (io.ReadCloser, error) {
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
		if err != nil {
			return nil, err
		}
		return fullReader{d.IOReadCloser()}, nil
	})
}

// fullReader fills what it is given: the library starts a cluster anew after
// each short read.
type fullReader struct{ io.ReadCloser }

func (f fullReader) Read(p []byte) (int, error) {
	n, err := io.ReadFull(f.ReadCloser, p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// qcow2File is a qcow2 image as content.
type qcow2File struct {
	img  *qcow2.Qcow2
	file io.Closer
	name string
	size uint64
}

func openQcow2(path string) (content, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	q, err := newQcow2(f, path)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	q.file = f
	return q, nil
}

// sizedReader is a file that tells its length by seeking.
type sizedReader interface {
	io.ReaderAt
	io.Seeker
}

func newQcow2(f sizedReader, name string) (*qcow2File, error) {
	length, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, block.Errorf(block.IO, "size of %s: %w", name, err)
	}
	h, err := readQcow2Header(f, uint64(length), name)
	if err != nil {
		return nil, err
	}
	if err := checkQcow2Tables(f, h, uint64(length), name); err != nil {
		return nil, err
	}
	// The library must see no file name: it would open a backing file, though
	// the header has been found to name none.
	img, err := qcow2.Open(io.NewSectionReader(f, 0, length), nil)
	if err == nil {
		err = img.Readable()
	}
	if err != nil {
		return nil, block.Errorf(block.Invalid, "qcow2 image %s: %w", name, err)
	}
	return &qcow2File{img: img, name: name, size: h.size}, nil
}

// qcow2Header is what of a header has to be checked before the library sees it.
type qcow2Header struct {
	clusterBits uint32
	size        uint64
	l1Entries   uint32
	l1Offset    uint64
}

func (h qcow2Header) clusterBytes() uint64 { return 1 << h.clusterBits }

// readQcow2Header refuses what the library would trust or cannot read.
func readQcow2Header(r io.ReaderAt, length uint64, name string) (qcow2Header, error) {
	bad := func(format string, args ...any) (qcow2Header, error) {
		return qcow2Header{}, block.Errorf(block.Invalid, "qcow2 image "+name+": "+format, args...)
	}
	b := make([]byte, qcow2HeaderBytes)
	n, err := r.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return qcow2Header{}, block.Errorf(block.IO, "read %s: %w", name, err)
	}
	if n < qcow2V2HeaderBytes {
		return bad("its header ends early: want %d bytes, got %d", qcow2V2HeaderBytes, n)
	}
	be := binary.BigEndian
	if string(b[:4]) != qcow2.Magic {
		return bad("it begins with %q, want %q", b[:4], qcow2.Magic)
	}
	version := be.Uint32(b[4:])
	h := qcow2Header{clusterBits: be.Uint32(b[20:]), size: be.Uint64(b[24:]), l1Entries: be.Uint32(b[36:]), l1Offset: be.Uint64(b[40:])}
	switch {
	case version != 2 && version != 3:
		return bad("version %d, want 2 or 3", version)
	case be.Uint64(b[8:]) != 0:
		return bad("it has a backing file, without which it is not complete; %s", convertHint)
	case be.Uint32(b[32:]) != 0:
		return bad("it is encrypted (method %d); %s", be.Uint32(b[32:]), convertHint)
	case h.clusterBits < qcow2MinClusterBits || h.clusterBits > qcow2MaxClusterBits:
		return bad("clusters of 2^%d bytes, want 2^%d to 2^%d", h.clusterBits, qcow2MinClusterBits, qcow2MaxClusterBits)
	case h.size == 0 || h.size > block.MaxVolumeBytes:
		return bad("size of %d bytes, want 1 to %d", h.size, uint64(block.MaxVolumeBytes))
	}
	if version == 2 {
		return h, checkL1Bounds(h, length, name)
	}
	if n < qcow2V3HeaderBytes {
		return bad("its header ends early: want %d bytes, got %d", qcow2V3HeaderBytes, n)
	}
	if headerBytes := uint64(be.Uint32(b[100:])); headerBytes < qcow2V3HeaderBytes || headerBytes > h.clusterBytes() || headerBytes%8 != 0 {
		return bad("header of %d bytes, want a multiple of 8 from %d to a cluster of %d", headerBytes, qcow2V3HeaderBytes, h.clusterBytes())
	}
	if err := checkQcow2Features(be.Uint64(b[72:]), name); err != nil {
		return qcow2Header{}, err
	}
	return h, checkL1Bounds(h, length, name)
}

// checkQcow2Features refuses incompatible features that matter to a reader.
func checkQcow2Features(features uint64, name string) error {
	const dirty, compression = 1 << qcow2.IncompatibleFeaturesDirtyBit, 1 << qcow2.IncompatibleFeaturesCompressionTypeBit
	rest := features &^ (dirty | compression) // a dirty image has stale reference counts only
	if rest == 0 {
		return nil
	}
	bit := bits.TrailingZeros64(rest)
	switch bit {
	case qcow2.IncompatibleFeaturesCorruptBit:
		return block.Errorf(block.Corrupt, "qcow2 image %s: it is marked corrupt: repair it first: qemu-img check -r all", name)
	case qcow2.IncompatibleFeaturesExternalDataFileBit, qcow2.IncompatibleFeaturesExtendedL2EntriesBit:
		return block.Errorf(block.Unsupported, "qcow2 image %s: it uses %s; %s", name, qcow2.IncompatibleFeaturesNames[bit], convertHint)
	}
	return block.Errorf(block.Unsupported, "qcow2 image %s: it uses the unknown feature of bit %d; %s", name, bit, convertHint)
}

// checkL1Bounds refuses a first table that is too small, too large or not all
// in the file.
func checkL1Bounds(h qcow2Header, length uint64, name string) error {
	perEntry := h.clusterBytes() / 8 * h.clusterBytes() // what one second table maps
	want := (h.size + perEntry - 1) / perEntry
	entries, tableBytes := uint64(h.l1Entries), uint64(h.l1Entries)*8
	switch {
	case entries < want || tableBytes > qcow2MaxL1Bytes:
		return block.Errorf(block.Invalid, "qcow2 image %s: L1 table of %d entries, want %d to %d", name, entries, want, qcow2MaxL1Bytes/8)
	case h.l1Offset == 0 || h.l1Offset%h.clusterBytes() != 0:
		return block.Errorf(block.Invalid, "qcow2 image %s: L1 table at offset %d, want a multiple of the cluster of %d", name, h.l1Offset, h.clusterBytes())
	case h.l1Offset > length || tableBytes > length-h.l1Offset:
		return block.Errorf(block.Corrupt, "qcow2 image %s ends early: its L1 table ends at %d, the file at %d", name, h.l1Offset+tableBytes, length)
	}
	return nil
}

// checkQcow2Tables walks the mapping and refuses an image of which something
// lies beyond the end of the file, before anything of it is imported.
func checkQcow2Tables(r io.ReaderAt, h qcow2Header, length uint64, name string) error {
	const offsetMask = 0x00fffffffffffe00
	l1 := make([]byte, uint64(h.l1Entries)*8)
	if err := readFull(r, l1, h.l1Offset, name); err != nil {
		return err
	}
	l2 := make([]byte, h.clusterBytes())
	perTable := h.clusterBytes() / 8 * h.clusterBytes()
	for i := uint64(0); i < uint64(h.l1Entries) && i*perTable < h.size; i++ {
		at := binary.BigEndian.Uint64(l1[i*8:]) & offsetMask
		if at == 0 {
			continue
		}
		if at%h.clusterBytes() != 0 || at > length || h.clusterBytes() > length-at {
			return block.Errorf(block.Corrupt, "qcow2 image %s: L2 table %d at offset %d of a file of %d bytes: it is cut short or damaged", name, i, at, length)
		}
		if err := readFull(r, l2, at, name); err != nil {
			return err
		}
		if err := checkL2(l2, h, i*perTable, length, name); err != nil {
			return err
		}
	}
	return nil
}

// checkL2 checks where the clusters lie that one second table maps, from
// virtual offset from on.
func checkL2(l2 []byte, h qcow2Header, from, length uint64, name string) error {
	const offsetMask = 0x00fffffffffffe00
	for j := uint64(0); j < uint64(len(l2))/8; j++ {
		virtual := from + j*h.clusterBytes()
		if virtual >= h.size {
			return nil
		}
		e := binary.BigEndian.Uint64(l2[j*8:])
		at, want := e&offsetMask, min(h.clusterBytes(), h.size-virtual)
		if e>>62&1 == 1 { // compressed: at least a byte of it must be there
			at, want = e&(1<<(62-(h.clusterBits-8))-1), 1
		} else if at == 0 || e&1 == 1 {
			if at == 0 && e&^(1<<63|1) != 0 {
				return block.Errorf(block.Corrupt, "qcow2 image %s: the entry of offset %d is %#x: it is damaged", name, virtual, e)
			}
			continue
		} else if at%h.clusterBytes() != 0 {
			return block.Errorf(block.Corrupt, "qcow2 image %s: the cluster of offset %d lies at %d, want a multiple of %d: it is damaged", name, virtual, at, h.clusterBytes())
		}
		if at == 0 || at > length || want > length-at {
			return block.Errorf(block.Corrupt, "qcow2 image %s ends early: the cluster of offset %d lies at %d, the file has %d bytes", name, virtual, at, length)
		}
	}
	return nil
}

func (q *qcow2File) sizeBytes() uint64 { return q.size }
func (q *qcow2File) close() error      { return q.file.Close() }

// maxExtentBytes bounds one look at the mapping, so that a walk of a huge
// empty image can be stopped.
const maxExtentBytes = 64 << 30

func (q *qcow2File) nextData(offBytes uint64) (start, end uint64, err error) {
	for off := offBytes; off < q.size; {
		ext, err := q.img.Extent(int64(off), int64(min(q.size-off, maxExtentBytes)))
		if err != nil {
			return 0, 0, q.failed(err, off)
		}
		if ext.Start != int64(off) || ext.Length <= 0 || uint64(ext.Length) > q.size-off {
			return 0, 0, q.failed(extentError(ext), off)
		}
		if ext.Allocated && !ext.Zero {
			return off, off + uint64(ext.Length), nil
		}
		off += uint64(ext.Length)
	}
	return q.size, q.size, nil
}

func extentError(ext qcow2image.Extent) error {
	return block.Errorf(block.Internal, "extent [%d, +%d)", ext.Start, ext.Length)
}

func (q *qcow2File) readAt(p []byte, offBytes uint64) error {
	n, err := q.img.ReadAt(p, int64(offBytes))
	if n == len(p) && (err == nil || errors.Is(err, io.EOF)) {
		return nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return q.failed(err, offBytes+uint64(max(n, 0)))
}

func (q *qcow2File) failed(err error, offBytes uint64) error {
	return block.Errorf(block.Corrupt, "qcow2 image %s: read at offset %d: it is cut short or damaged: %w", q.name, offBytes, err)
}
