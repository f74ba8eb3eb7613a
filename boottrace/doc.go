// Package boottrace is the form of boot traces. A trace of blocks says which blocks of
// a snapshot were read, in the order of their first reading, when a clone of it was
// started; a trace of files which files of its file system were opened, and what of
// them was in memory then.
//
// A trace is a hint. Whoever gets one reads other blocks or files, or the same too
// early, if it is wrong; nothing else depends on it.
//
// Format of a trace of blocks, version 1:
//
//	u8 1 | run ... | u32 little endian CRC-32C of all before it
//	run: varint first block minus the end of the run before | uvarint blocks
//
// Format of a trace of files, version 1:
//
//	u8 1 | file ... | u32 little endian CRC-32C of all before it
//	file: uvarint bytes that the path begins with as the one before does | uvarint
//	      bytes that follow | these | uvarint runs | run ...
//	run:  uvarint first page minus the end of the run before | uvarint pages
//
// Varints are those of encoding/binary. Limits of blocks: MaxBytes, MaxBlocks in all,
// and block numbers of the largest volume. Of files: MaxFilesBytes, MaxFiles, MaxFileRuns
// each, MaxFilePages in all, and paths of at most 1 KiB, relative, without "." and "..".
// A page is of 4 KiB, whatever the machine's are.
package boottrace
