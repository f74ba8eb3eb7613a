// Package check is the one consistency walk over a store: over the extent map
// (cow), the log (segment), and the data if wanted. The commands, the server
// and the tests use it; it changes nothing.
//
// It looks at the map as it was committed at one moment, so the rules that hold
// in every committed state (cow's M1 and M3) are checked exactly while writers
// go on. The log has no such view: what does not fit there is looked at again,
// after a flush, in the map as it is then, and only what still does not fit is
// reported. So a block that the cleaner moves meanwhile is no damage.
//
// What it finds:
//
//   - [Catalog]: a record that names a layer, a volume or an id that is not
//     there or not given out; layers that do not hang together.
//   - [Map]: a page that does not decode or cannot be read, pages that belong
//     to no layer.
//   - [Counter]: a counter that is not what counting the entries gives (M3).
//   - [Twice]: a block of the log that several entries name (M1).
//   - [Entry]: an entry that names a missing segment, a place where no data was
//     written, or data that was written for something else.
//   - [Segment]: a segment header, or a chunk header, that does not verify.
//   - [Replay]: a replay point that the log does not have.
//   - [Data]: a live block whose bytes do not verify, or cannot be read.
//
// What is wrong in a segment is reported with the name of its file.
//
// Segments that nothing needs are no damage: the garbage collector deletes
// them. They are passed to Options.Orphan.
package check
