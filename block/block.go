package block

import "fmt"

// Size is the unit of the extent map, of checksums and of crash atomicity, in
// bytes. It never changes: it is part of the disk format.
const Size = 4096

// Limits. Every length read from a disk or a network is compared with one of
// these before it is used.
const (
	// MaxVolumeBytes bounds the size of a volume (256 TiB, 2^36 blocks).
	MaxVolumeBytes = 1 << 48
	// MaxNameBytes bounds a volume or a snapshot name.
	MaxNameBytes = 128
	// MaxRequestBytes bounds the data of one read or write request.
	MaxRequestBytes = 32 << 20
)

// VolumeID identifies a volume for ever; ids are never reused.
type VolumeID uint64

// LayerID identifies a layer for ever; ids are never reused. Zero is no layer.
type LayerID uint64

// SegmentID identifies a segment file for ever and orders segments by age; ids
// start at 1 and are never reused. Zero is no segment.
type SegmentID uint64

// Generation numbers the writable attachments of one volume. It only grows. A
// write that carries an older generation than the volume's is refused.
type Generation uint64

// Index is the number of a block within a volume: byte offset divided by Size.
type Index uint64

// addrBlockBits is the part of an Addr that numbers blocks within a segment.
const addrBlockBits = 24

// MaxSegmentBlocks bounds the length of a segment file (64 GiB).
const MaxSegmentBlocks = 1 << addrBlockBits

// MaxSegmentID bounds segment ids (2^40-1), so that they fit in an Addr.
const MaxSegmentID SegmentID = 1<<(64-addrBlockBits) - 1

// Addr is where the bytes of one block are: a segment and a block number in
// it. The zero Addr is no address, since block 0 of a segment is its header.
type Addr uint64

// MakeAddr returns the address of block n of segment s. It panics when either
// is out of range: callers validate what they read from outside.
func MakeAddr(s SegmentID, n uint32) Addr {
	if s > MaxSegmentID || n >= MaxSegmentBlocks {
		panic(fmt.Sprintf("block: address %d:%d out of range", s, n))
	}
	return Addr(uint64(s)<<addrBlockBits | uint64(n))
}

// Segment returns the segment the address lies in.
func (a Addr) Segment() SegmentID { return SegmentID(a >> addrBlockBits) }

// Block returns the block number within the segment.
func (a Addr) Block() uint32 { return uint32(a & (MaxSegmentBlocks - 1)) }

func (a Addr) String() string { return fmt.Sprintf("%d:%d", a.Segment(), a.Block()) }
