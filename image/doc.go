// Package image moves whole images into and out of a Slacker server: it imports
// disk images, tar archives, directories and container images as snapshots,
// and exports snapshots and volumes as disk images.
//
// Nouns:
//
//   - source: what is imported: a file, a block device, a directory, or "-" for
//     standard input.
//   - format: how a source or destination is encoded; see [Formats].
//   - content: a source seen as a block device: a size, where it may hold data,
//     and its bytes.
//   - tree: the staging directory in which archives and container layers are
//     unpacked before an ext4 file system is made of it.
//   - archive: a container image as a set of named blobs, in a directory or in a
//     tar file.
//
// How an import goes: the source is opened and verified as far as that can be
// done without moving it; whatever holds files becomes an ext4 image in a
// temporary file; a staging volume is begun over the admin API, the data that
// is not zero is written to it over NBD and flushed; the import is finished,
// which makes the snapshot appear in one step.
//
// Invariants:
//
//  1. Nothing half made stays: an import that does not end in FinishImport ends
//     in AbortImport, and an export that fails removes its partial file. Temporary
//     files are gone when Import or Export returns, whatever it returns.
//  2. A volume reads as its source does: blocks of zeroes are skipped only
//     because a staging volume reads as zeroes where nothing was written.
//  3. A source that ends early, or whose checksum or digest does not match, is
//     refused; a container layer is used only if its digests are those its
//     manifest and its configuration state.
//  4. No name, link or length in a source reaches outside the tree: every path
//     is resolved by the kernel with the tree as its root (openat2,
//     RESOLVE_IN_ROOT), and the last part of a path is never followed.
//  5. Every length that a source states is compared with a named limit before
//     it is used.
//  6. A destination appears under its name only when it is complete and synced.
package image
