// Package blockcache keeps blocks of immutable snapshots on a worker's disk, for
// all processes of the worker.
//
// Nouns:
//
//   - base: the contents of one snapshot, named by an identity that no other
//     contents ever have, together with the server that says so.
//   - block: block.Size bytes of a base, at a multiple of that.
//   - cache: a directory with two files for each base. Every process that uses the
//     directory opens it by itself; there is no process that owns it.
//
// Invariants:
//
//	B1  What Read returns of a block is what Fill was given for the same base and
//	    block, of this or another process, now or before a crash; or it is not
//	    there. Each block has a 64-bit sum over the base's name, the block's number
//	    and its bytes, which is compared at every read. So no order of writes
//	    matters, no lock is held over them, and torn, mixed up, emptied, truncated
//	    or rotten files are blocks that are not there.
//	B2  A name of a base has the server in it: one server cannot fill what is read
//	    as another's.
//	B3  The files take no more room than the limit, and what each process has
//	    filled since it looked last (stepBytes); nor the last twentieth of the file
//	    system. What was attached longest ago goes first, as a whole: removed when
//	    nobody has it open, emptied when somebody has.
//	B4  Nothing here fails a read: a fault of the cache's disk ends the filling, and
//	    what cannot be read is not there.
//
// Files, integers little endian:
//
//	NAME.data   the blocks, each at its offset in the snapshot; sparse. Blocks of
//	            zeroes are not written.
//	NAME.sums   u64 sum of each block, in order; 0: the block is not there
//	LOCK        locked while a process makes room
//
// NAME is the first 16 bytes, in hex, of the SHA-256 of the server's address, a
// zero byte and the base's identity. A sum is the XXH64 of the 16 bytes of the
// name, the block's number (u64) and the block; 1 stands for 0. NAME.sums is
// locked (flock, shared) by each process that has the base open, and NAME.data
// (exclusive) by the one that fetches ahead for it.
//
// Another version of these files gets another suffix; files that are not known
// are left alone.
package blockcache
