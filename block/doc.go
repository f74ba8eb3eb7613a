// Package block is the vocabulary that every other package shares: ids,
// addresses, limits, names and error kinds. It imports nothing of ours and
// does no I/O.
//
// Nouns:
//
//   - volume: a writable, named block device. Its identity is a [VolumeID];
//     its name may change.
//   - snapshot: an immutable, named state of a volume, written VOLUME@SNAPSHOT.
//   - clone: a volume that starts as a snapshot.
//   - layer: one generation of changes in the extent map ([LayerID]).
//   - extent: a run of 4 KiB blocks and where their bytes are ([Addr]).
//   - segment: an append-only data file ([SegmentID]).
//   - attachment: a volume in use by a worker; it carries a [Generation].
//
// Sizes: a block is [Size] bytes. Offsets and lengths of data are bytes and
// say so in their names (offBytes); counts of blocks say so too (nBlocks).
// Ranges are half-open.
package block
