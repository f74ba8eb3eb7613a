package segment

import (
	"bytes"
	"encoding/binary"
	"time"

	"github.com/slackerd/slacker/block"
)

// Limits and sizes of the disk format, version 1. See the package comment.
const (
	formatVersion = 1

	// maxChunkBlocks bounds the payload of a chunk (1 MiB).
	maxChunkBlocks = 256

	// MinSegmentBytes and MaxSegmentBytes bound the length of a segment file.
	MinSegmentBytes = 1 << 20
	MaxSegmentBytes = block.MaxSegmentBlocks * block.Size

	segmentMagic uint64 = 0x534c4b5253454731 // "SLKRSEG1"
	chunkMagic   uint64 = 0x534c4b5243484b31 // "SLKRCHK1"

	segmentHeaderBytes = 96   // used part of block 0, before the checksum
	chunkFixedBytes    = 96   // fixed part of a chunk header
	entryBytes         = 24   // fixed part of an entry
	moveBytes          = 8    // old address of a move entry
	crcOffset          = 4092 // the checksum is the last word of a header block
	maxEntriesEnd      = crcOffset

	flagEnd uint32 = 1 // the chunk is the end marker of a sealed segment

	maxVolumeBlocks = block.MaxVolumeBytes / block.Size
)

// segmentHeader is block 0 of a segment.
type segmentHeader struct {
	store   [16]byte
	id      block.SegmentID
	created time.Time
	// first is the LSN of the first record of the segment.
	first LSN
	// durable is an LSN up to which the log was durable when this was written.
	durable LSN
	// prev is where the log ended before this segment: the header of the first
	// chunk of this segment follows prev. Zero in the first segment of a store.
	prev Pos
	// prevPayload is the number of payload blocks of the segment prev names.
	prevPayload uint32
}

func (h *segmentHeader) encode(b []byte) {
	clear(b[:block.Size])
	le := binary.LittleEndian
	le.PutUint64(b[0:], segmentMagic)
	le.PutUint32(b[8:], formatVersion)
	copy(b[16:32], h.store[:])
	le.PutUint64(b[32:], uint64(h.id))
	le.PutUint64(b[40:], uint64(h.created.UnixNano()))
	le.PutUint64(b[48:], uint64(h.first))
	le.PutUint64(b[56:], uint64(h.durable))
	le.PutUint64(b[64:], uint64(h.prev.Segment))
	le.PutUint32(b[72:], h.prev.Block)
	le.PutUint32(b[76:], h.prevPayload)
	le.PutUint32(b[crcOffset:], block.MetaChecksum(b[:crcOffset]))
}

// decodeSegmentHeader checks and decodes block 0 of segment id of a store.
func decodeSegmentHeader(b []byte, store [16]byte, id block.SegmentID) (h segmentHeader, err error) {
	le := binary.LittleEndian
	if len(b) < block.Size {
		return h, block.Errorf(block.Corrupt, "segment %d: header: want %d bytes, got %d", id, block.Size, len(b))
	}
	if m := le.Uint64(b); m != segmentMagic {
		return h, block.Errorf(block.Corrupt, "segment %d: header: want magic %#x, got %#x", id, segmentMagic, m)
	}
	if want, got := block.MetaChecksum(b[:crcOffset]), le.Uint32(b[crcOffset:]); want != got {
		return h, block.Errorf(block.Corrupt, "segment %d: header: want checksum %#x, got %#x", id, want, got)
	}
	if v := le.Uint32(b[8:]); v != formatVersion {
		return h, block.Errorf(block.Unsupported, "segment %d: format version %d: this program reads version %d", id, v, formatVersion)
	}
	copy(h.store[:], b[16:32])
	h.id = block.SegmentID(le.Uint64(b[32:]))
	h.created = time.Unix(0, int64(le.Uint64(b[40:])))
	h.first = LSN(le.Uint64(b[48:]))
	h.durable = LSN(le.Uint64(b[56:]))
	h.prev = Pos{Segment: block.SegmentID(le.Uint64(b[64:])), Block: le.Uint32(b[72:])}
	h.prevPayload = le.Uint32(b[76:])
	switch {
	case h.store != store:
		return h, block.Errorf(block.Corrupt, "segment %d: belongs to store %x, not to %x", id, h.store, store)
	case h.id != id:
		return h, block.Errorf(block.Corrupt, "segment %d: header names segment %d", id, h.id)
	case h.first == 0 || h.durable >= h.first || h.prev.Segment >= id || h.prev.Block >= block.MaxSegmentBlocks:
		return h, block.Errorf(block.Corrupt, "segment %d: header fields out of range: first %d, durable %d, previous %d:%d",
			id, h.first, h.durable, h.prev.Segment, h.prev.Block)
	}
	return h, nil
}

// unfinishedHeader reports whether a crash may leave b where the header of a
// segment was being written into a block of zeroes (S7): only one of the two
// disk sectors that hold something of it, the first and the last, has arrived,
// or none has. Nothing of such a segment was durable.
func unfinishedHeader(b []byte, store [16]byte, id block.SegmentID) bool {
	if len(b) < block.Size || !allZero(b[segmentHeaderBytes:crcOffset]) {
		return false
	}
	first, last := b[:segmentHeaderBytes], b[crcOffset:block.Size]
	if allZero(first) {
		return true
	}
	le := binary.LittleEndian
	return allZero(last) && le.Uint64(first) == segmentMagic && le.Uint32(first[8:]) == formatVersion &&
		[16]byte(first[16:32]) == store && block.SegmentID(le.Uint64(first[32:])) == id
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// chunkHeader is the header block of a chunk without its entries.
type chunkHeader struct {
	store   [16]byte
	segment block.SegmentID
	pos     uint32 // block number of the header block in the segment
	flags   uint32
	first   LSN // LSN of the first entry; of the next record in an end marker
	durable LSN
	entries uint32
	blocks  uint32 // payload blocks that follow
	prevCRC uint32 // checksum of the header before it; of block 0 for the first
	bytes   uint32 // end of the entries
}

// seal writes the fixed part of a header whose entries are in place already
// and returns its checksum.
func (h *chunkHeader) seal(b []byte) uint32 {
	le := binary.LittleEndian
	le.PutUint64(b[0:], chunkMagic)
	le.PutUint32(b[8:], formatVersion)
	le.PutUint32(b[12:], h.flags)
	copy(b[16:32], h.store[:])
	le.PutUint64(b[32:], uint64(h.segment))
	le.PutUint64(b[40:], uint64(h.first))
	le.PutUint64(b[48:], uint64(h.durable))
	le.PutUint32(b[56:], h.pos)
	le.PutUint32(b[60:], h.entries)
	le.PutUint32(b[64:], h.blocks)
	le.PutUint32(b[68:], h.prevCRC)
	le.PutUint32(b[72:], h.bytes)
	clear(b[76:chunkFixedBytes])
	crc := block.MetaChecksum(b[:crcOffset])
	le.PutUint32(b[crcOffset:], crc)
	return crc
}

// putEntry appends the entry of rec at b[off:] and returns its end. The caller
// has checked that it fits.
func putEntry(b []byte, off int, rec *Record) int {
	le := binary.LittleEndian
	le.PutUint32(b[off:], uint32(rec.Kind))
	le.PutUint32(b[off+4:], rec.Count)
	le.PutUint64(b[off+8:], uint64(rec.Layer))
	le.PutUint64(b[off+16:], uint64(rec.First))
	off += entryBytes
	if rec.Kind == Move {
		le.PutUint64(b[off:], uint64(rec.Old))
		off += moveBytes
	}
	for _, s := range rec.Sums {
		le.PutUint32(b[off:], s)
		off += 4
	}
	return off
}

// decodeChunk checks the header block b, read from block pos of segment id,
// and returns it and its records. It trusts nothing in b: every count is
// bounded by the block before it is used.
func decodeChunk(b []byte, store [16]byte, id block.SegmentID, pos uint32) (h chunkHeader, crc uint32, recs []Record, err error) {
	if h, crc, err = decodeChunkHeader(b, store, id, pos); err != nil {
		return h, 0, nil, err
	}
	recs = make([]Record, 0, h.entries)
	off, payload := chunkFixedBytes, uint32(0)
	for i := range h.entries {
		rec, end, err := decodeEntry(b[:h.bytes], off)
		if err != nil {
			return h, 0, nil, block.Errorf(block.Corrupt, "segment %d: chunk at block %d: %w", id, pos, err)
		}
		rec.LSN = h.first + LSN(i)
		if rec.Kind != Zero {
			if rec.Count > h.blocks-payload {
				return h, 0, nil, block.Errorf(block.Corrupt, "segment %d: chunk at block %d: entry %d wants %d payload blocks, %d left", id, pos, i, rec.Count, h.blocks-payload)
			}
			rec.Addr = block.MakeAddr(id, pos+1+payload)
			payload += rec.Count
		}
		recs, off = append(recs, rec), end
	}
	if payload != h.blocks || off != int(h.bytes) {
		return h, 0, nil, block.Errorf(block.Corrupt, "segment %d: chunk at block %d: entries name %d payload blocks in %d bytes, header %d in %d", id, pos, payload, off, h.blocks, h.bytes)
	}
	return h, crc, recs, nil
}

func decodeChunkHeader(b []byte, store [16]byte, id block.SegmentID, pos uint32) (h chunkHeader, crc uint32, err error) {
	le := binary.LittleEndian
	if len(b) != block.Size {
		return h, 0, block.Errorf(block.Corrupt, "segment %d: chunk at block %d: want %d bytes, got %d", id, pos, block.Size, len(b))
	}
	if m := le.Uint64(b); m != chunkMagic {
		return h, 0, block.Errorf(block.Corrupt, "segment %d: chunk at block %d: want magic %#x, got %#x", id, pos, chunkMagic, m)
	}
	crc = block.MetaChecksum(b[:crcOffset])
	if got := le.Uint32(b[crcOffset:]); got != crc {
		return h, 0, block.Errorf(block.Corrupt, "segment %d: chunk at block %d: want checksum %#x, got %#x", id, pos, crc, got)
	}
	if v := le.Uint32(b[8:]); v != formatVersion {
		return h, 0, block.Errorf(block.Unsupported, "segment %d: chunk at block %d: format version %d: this program reads version %d", id, pos, v, formatVersion)
	}
	h = chunkHeader{
		flags: le.Uint32(b[12:]), segment: block.SegmentID(le.Uint64(b[32:])),
		first: LSN(le.Uint64(b[40:])), durable: LSN(le.Uint64(b[48:])),
		pos: le.Uint32(b[56:]), entries: le.Uint32(b[60:]), blocks: le.Uint32(b[64:]),
		prevCRC: le.Uint32(b[68:]), bytes: le.Uint32(b[72:]),
	}
	copy(h.store[:], b[16:32])
	if h.store != store || h.segment != id || h.pos != pos {
		return h, 0, block.Errorf(block.Corrupt, "segment %d: chunk at block %d: header is of store %x, segment %d, block %d", id, pos, h.store, h.segment, h.pos)
	}
	end := h.flags&flagEnd != 0
	if h.flags&^flagEnd != 0 || h.first == 0 || h.durable >= h.first || h.blocks > maxChunkBlocks ||
		h.bytes < chunkFixedBytes || h.bytes > maxEntriesEnd || h.entries > (h.bytes-chunkFixedBytes)/entryBytes ||
		end != (h.entries == 0) || uint64(pos)+1+uint64(h.blocks) > block.MaxSegmentBlocks {
		return h, 0, block.Errorf(block.Corrupt, "segment %d: chunk at block %d: header fields out of range: flags %#x, first %d, durable %d, %d entries in %d bytes, %d blocks",
			id, pos, h.flags, h.first, h.durable, h.entries, h.bytes, h.blocks)
	}
	return h, crc, nil
}

// decodeEntry decodes the entry at b[off:] and returns where it ends.
func decodeEntry(b []byte, off int) (rec Record, end int, err error) {
	le := binary.LittleEndian
	if len(b)-off < entryBytes {
		return rec, 0, block.Errorf(block.Corrupt, "entry at byte %d: want %d bytes, %d left", off, entryBytes, len(b)-off)
	}
	kind := le.Uint32(b[off:])
	rec = Record{Kind: Kind(kind), Count: le.Uint32(b[off+4:]), Layer: block.LayerID(le.Uint64(b[off+8:])), First: block.Index(le.Uint64(b[off+16:]))}
	if kind < uint32(Data) || kind > uint32(Move) {
		return rec, 0, block.Errorf(block.Corrupt, "entry at byte %d: unknown kind %d", off, kind)
	}
	if err := rec.checkRange(); err != nil {
		return rec, 0, block.Errorf(block.Corrupt, "entry at byte %d: %w", off, err)
	}
	off += entryBytes
	if rec.Kind == Zero {
		return rec, off, nil
	}
	if rec.Kind == Move {
		if len(b)-off < moveBytes {
			return rec, 0, block.Errorf(block.Corrupt, "entry at byte %d: no room for the old address", off)
		}
		rec.Old = block.Addr(le.Uint64(b[off:]))
		off += moveBytes
	}
	if rec.Count > maxChunkBlocks || len(b)-off < 4*int(rec.Count) {
		return rec, 0, block.Errorf(block.Corrupt, "entry at byte %d: %d checksums in %d bytes", off, rec.Count, len(b)-off)
	}
	rec.Sums = make([]uint32, rec.Count)
	for i := range rec.Sums {
		rec.Sums[i] = le.Uint32(b[off+4*i:])
	}
	return rec, off + 4*int(rec.Count), nil
}
