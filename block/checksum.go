package block

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum returns the CRC-32C of the index of a block within its volume (8
// bytes, little endian) followed by its data. Covering the index means that a
// block that ends up at another place of a volume does not verify there. The
// index, unlike the layer or the address, survives clones, layer merges and
// the segment cleaner, so none of them has to touch the checksum.
func Checksum(i Index, data []byte) uint32 {
	// The index byte by byte: handing a buffer to crc32 would put it on the heap.
	crc := ^uint32(0)
	for range 8 {
		crc = castagnoli[byte(crc)^byte(i)] ^ crc>>8
		i >>= 8
	}
	return crc32.Update(^crc, castagnoli, data)
}

// MetaChecksum returns the CRC-32C of metadata.
func MetaChecksum(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }
