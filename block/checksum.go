package block

import (
	"encoding/binary"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum returns the CRC-32C of the index of a block within its volume (8
// bytes, little endian) followed by its data. Covering the index means that a
// block that ends up at another place of a volume does not verify there. The
// index, unlike the layer or the address, survives clones, layer merges and
// the segment cleaner, so none of them has to touch the checksum.
func Checksum(i Index, data []byte) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(i))
	return crc32.Update(crc32.Update(0, castagnoli, b[:]), castagnoli, data)
}

// MetaChecksum returns the CRC-32C of metadata.
func MetaChecksum(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }
