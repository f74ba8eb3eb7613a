// Package segment is the log of the store: append-only segment files that hold
// the data of all volumes in the order in which it was written, and the
// write-ahead log of the extent map at once.
//
// Nouns:
//
//   - record: one change of a run of blocks of a layer ([Record]), numbered by
//     an [LSN].
//   - chunk: a header block with up to 166 records and their payload, at most
//     1 MiB. It is written in one piece and is the unit of recovery.
//   - segment: a file of chunks, 128 MiB unless configured. Segments are never
//     overwritten; the cleaner moves what lives in one and deletes it.
//   - tail: the segment where the log ends.
//   - end marker: the chunk without records that ends a sealed segment.
//
// Invariants:
//
//	S1  Records become durable in order of LSN: a crash leaves a prefix, and it
//	    holds everything that a Sync which returned nil was asked for.
//	S2  A durable LSN is never used again for another record, nor the id of a
//	    segment that held one.
//	S3  A record dropped by a recovery never comes back: appending goes on in a
//	    new segment, whose header names the place where the log was cut, and that
//	    claim beats whatever is at the place.
//	S4  Recovery never takes damage for the end of the log: headers carry the LSN
//	    up to which the log was durable when they were written, and a log that
//	    ends before the greatest of these is Corrupt. What no later header
//	    vouches for, that is, the last group commit (or a last file cut short as
//	    a whole), cannot be told from a torn write.
//	S5  Space for a record is allocated before Append accepts it, so a full disk
//	    is met by Append (NoSpace, nothing lost, nothing fenced), never by Sync.
//	    Data leaves a reserve free, which moves and zeros may take a part of.
//	S6  The first failed write or fdatasync is the last one tried: the log takes
//	    no more writes, but reads go on.
//	S7  A file that is used again holds chunks of its former segment behind what
//	    the new one has written. They never validate: headers name their segment,
//	    the id of a deleted segment is less than the tail's and so never used
//	    again, and the file gets the name of a segment only after its first block
//	    was durably zeroed.
//	S8  A segment whose header a crash tore is told from a damaged one: block 0 was
//	    durably zero before, so of the sectors of 512 bytes that hold the header
//	    one is there and the other is zero. It is as good as never begun.
//	S9  The file of a segment of which pages were lent (Lend) is not used again: a
//	    page may wait in a socket for as long as the other side likes, and even
//	    outlive this process there. So a segment that was there when the log was
//	    opened counts as lent.
//	S10  What can be read from a file (up to segFile.written, and payload that was
//	    written directly) is not written again as long as the segment exists.
//	S11  A log that another process has left in good order (Leave) is not searched
//	    for records beyond its end, if the replay ends where that process did: no
//	    header can vouch for a record that was never numbered (S4). A replay that
//	    ends elsewhere searches as after a crash.
//	S12  No header is written that speaks of payload that was not written before, or
//	    in the same write and for the first time: the end of the process cannot
//	    take from a record that was settled, and no record becomes durable before
//	    its payload.
//	S13  Payload that is damaged costs itself alone: a record that was durable, as
//	    a later header says, is replayed whatever its payload holds, and who reads
//	    that finds that the checksum is wrong. A record that nothing vouches for is
//	    not, since a crash may have torn it.
//	S14  While a client waits for a Sync, no more than fairBlocks of payload, and one
//	    piece of each appender, are appended behind the round that runs; more wait
//	    for its end. So what a Sync waits for does not grow while it does.
//
// # Disk format, version 1
//
// A store's segments are files named NNNNNNNNNNNNNNNN.seg, the id in 16
// lower-case hex digits; NNNNNNNNNNNNNNNN.spare is one that was deleted and
// waits to be used again, and means nothing to a later process. Ids start at 1 and order segments by age. Integers are
// little endian. A file is an array of blocks of 4096 bytes: block 0 is the
// segment header, and chunks follow one after the other from block 1 on.
// Checksums are CRC-32C (Castagnoli).
//
// Segment header, block 0:
//
//	 0  8  magic 0x534c4b5253454731 ("SLKRSEG1" as a number)
//	 8  4  format version, 1
//	12  4  zero
//	16 16  store id
//	32  8  segment id
//	40  8  time of creation, nanoseconds since 1970 UTC
//	48  8  LSN of the first record of this segment
//	56  8  LSN up to which the log was durable; less than the first
//	64  8  segment where the log ended before this one, 0 if nowhere; less than this
//	72  4  block where it ended there (of the end marker, if it was written)
//	76  4  payload blocks of that segment
//	80 ..  zero
//	4092 4 checksum of bytes 0 to 4091
//
// Chunk header, any other block; the payload blocks follow it:
//
//	 0  8  magic 0x534c4b5243484b31 ("SLKRCHK1" as a number)
//	 8  4  format version, 1
//	12  4  flags: 1 = end marker; others are refused
//	16 16  store id
//	32  8  segment id
//	40  8  LSN of the first entry; entries count up from it
//	48  8  LSN up to which the log was durable; less than the first
//	56  4  number of this block in the segment
//	60  4  entries; 0 exactly in an end marker
//	64  4  payload blocks, at most 256
//	68  4  checksum of the header before it (of block 0 for the first chunk);
//	       not looked at in an end marker, which recovery may have to write late
//	72  4  where the entries end, 96 to 4092
//	76 20  zero
//	96 ..  entries, then zeros
//	4092 4 checksum of bytes 0 to 4091
//
// Entry:
//
//	 0  4  kind: 1 data, 2 zero, 3 move
//	 4  4  blocks, at least 1; at most 256 for data and move
//	 8  8  layer id, not 0
//	16  8  index of the first block in its volume
//	24  8  move only: address of the first block before the move
//	.. 4n  data and move: block.Checksum of every block
//
// Payload is in the order of the entries. It is covered by the checksums in the
// entries, which are covered by the checksum of the header, which is tied to
// its place by store, segment and block, and to its predecessor by checksum and
// LSN: a stale, misplaced or foreign chunk does not validate.
//
// History: version 1, the first.
package segment
