// Package boottrace is the form of a boot trace: which blocks of a snapshot were
// read, in the order of their first reading, when a clone of it was started.
//
// A trace is a hint. Whoever gets one reads other blocks, or the same too early,
// if it is wrong; nothing else depends on it.
//
// Format, version 1:
//
//	u8 1 | run ... | u32 little endian CRC-32C of all before it
//	run: varint first block minus the end of the run before | uvarint blocks
//
// Varints are those of encoding/binary. Limits: MaxBytes, MaxBlocks in all, and
// block numbers of the largest volume.
package boottrace
