// Package cow is the extent map: which layer holds which blocks, and where
// their bytes are. It owns the Pebble store; Pebble's types do not leave it.
//
// Nouns: a layer is one generation of changes. Layers form trees by their
// parent; a read of a layer sees its own entries and, where it has none, its
// nearest ancestor's. A map is the set of keys that hold one layer's own
// entries; each layer has one map, and layer merges may give a layer the map
// of another. A page is PageBlocks consecutive blocks of one map. An entry of a
// page is absent (ask the parent), zero (reads as zeroes, hides the parent) or
// data (an address and a checksum).
//
// Invariants:
//
//	M1  Every block of data in a segment is named by at most one entry of one
//	    map. So liveness is exact without reference counts.
//	M2  The store is the state after a prefix of the log: the replay position
//	    (see Tx.SetReplay) is written in the same batch as the entries that
//	    it covers, and covers no entry that is not there.
//	M3  The count of live blocks of each segment and of data blocks of each map
//	    equals what counting the entries gives, in every committed state.
//	M4  A sealed layer's resolved contents never change. (Where its bytes are
//	    may change: cleaning and layer merges move them.)
//	M5  All changes of the entries of a range of blocks of a layer are made
//	    under that layer's range lock (Layer.Lock).
//	M6  A page with changes that are not committed is not evicted.
//	M7  A span (below) names, for each of its layers, every page that the
//	    layer's map holds.
//	M8  The forward of a merged layer stays for as long as one of the segments is
//	    there between which all records lie that name the layer.
//	M9  What a named layer sees through a layer reads the same in that layer's flat
//	    pages (below), in every committed state; and they go with it.
//
// # Depth
//
// The first touch of a page resolves it through the chain of layers. Asking each
// of a thousand layers is a thousand lookups in Pebble, about a microsecond each
// with its Bloom filter; a test of a set in memory for each layer would still be
// about 20 us, a few times what the rest of a first touch costs. So the pages of
// a run of sealed layers are kept in one sorted list of (page, layer): a span. A
// walk finds the next layer that holds its page by one binary search and asks
// only that one. Descendants that branch off in the middle of a span enter it in
// the middle.
//
// Spans live in memory only, within an eighth of the page cache's bound, and are
// made in the background from the keys of the maps when a walk asked more than
// four layers in vain; until then, and for a layer with more pages than an
// eighth of the spans' bound holds, the layer itself is asked. A span that grows
// takes in the one below when that is not more than twice as long, so a chain
// has about log2 of its depth. A merge first takes its two layers out of their
// spans. A snapshot, a clone and opening the store do nothing for spans.
//
// A page that many layers of a chain hold would cost a lookup for each of them that
// its blocks come from. So when loading it took more than three, what the topmost of
// these sees is stored in the background as its flat page: a copy, resolved, with
// which a walk that comes there ends. Later layers that hold the page have it above
// that, and after three more the next flat page is made. The maps alone count: nobody
// else looks at flat pages, and a layer's own entries are read from its map in any
// case. What a layer sees never changes (M4), so a flat page stays right; where the
// cleaner moved a block away from its address, the segment is without life, and the
// page as good as none, or the reader finds out and drops it (Forget). It is made of
// committed changes only, and its commit follows on theirs, so a crash that takes
// changes away takes it along. The spans know which layers have one.
//
// # Keys
//
// Integers in keys are big endian, so that they sort by value. In the values
// they are little endian.
//
//	'F'                        format version (u32) and store id (16 bytes)
//	'R'                        replay position: u64 segment, u32 block, u64 next LSN
//	'I'                        u64 next id (volumes, layers and maps share it)
//	'V' volume:u64             VolumeRecord, JSON
//	'S' volume:u64 name        SnapshotRecord, JSON
//	'L' layer:u64              LayerRecord, JSON
//	'A' id                     AttachmentRecord, JSON
//	'P' map:u64 page:u32       page, merged (below)
//	'Q' layer:u64 page:u32     flat page (above), in the coding of a page; not merged
//	'G' segment:u64            live blocks (i64), merged by addition
//	'C' map:u64                data blocks (i64), merged by addition
//	'U'                        how far the scrub is, JSON (package scrub)
//	'M' layer:u64              Forward: u64 layer that holds what this merged one held,
//	                           u64 first and u64 last segment whose records may name it
//	                           (or the first number only: written before these were kept)
//
//	'J'                        u64 number of the last commit of the catalog
//
// # The journal of the catalog, version 1
//
// A directory beside the map has a copy of the catalog (V, S, L, A, M and I above),
// for the day on which the map is lost. It is written after each commit of the
// catalog, before the next one, and synced within the interval of commits; 'J' tells
// at open whether it is behind, and then it is made anew. A file,
// NNNNNNNNNNNNNNNN.journal with its number in hex, begins with a checkpoint; when it
// has grown to twice that and 1 MiB more, the next number begins, and older files go
// when its checkpoint is durable. It is not in the segments since those are emptied
// and deleted: the catalog would have to be carried along. A file is frames, little
// endian:
//
//	 0  4  bytes of the operations, at most 16 MiB
//	 4  4  CRC-32C of the file's number (u64), the frame's place in it (u64), and
//	       bytes 8 to the end of the frame
//	 8  8  number of the commit; in a checkpoint, of the last one that it has
//	16  4  flags: 1 = begins the checkpoint, 2 = completes it
//	20 ..  operations; of the first frame: u32 version, 1, and the store id (16 bytes)
//
//	operation: u8 1 set, 2 delete | u16 key bytes | u32 value bytes | key | value
//
// After the checkpoint the numbers count up by one. What follows the last whole
// frame counts for nothing.
//
// # Pages
//
// A page value, and a merge operand, is a list of runs; a later operand's runs
// replace the entries they cover. The checksum is the CRC-32C of the key (13
// bytes) followed by all bytes before it: a page read under another key does
// not verify. Runs are in order and do not overlap.
//
//	+---------+---------------------------------------------------+-----+
//	| version | run ...                                           | CRC |
//	| u8 = 1  |                                                   | u32 |
//	+---------+---------------------------------------------------+-----+
//	run: | first u8 | count-1 u8 | kind u8 | data only: addr u64, count x sum u32 |
//
// kind 1 is zero, 2 data at count consecutive addresses. Limits:
// first+count <= 256.
//
// History: format 1, 2026-11: first. Format 2, 2026-11: the journal, and where the
// records of merged layers lie; a store of format 1 becomes one when it is opened.
// Nothing else differs. Programs that know format 1 only must not open it, since
// they would leave the journal behind. Format 3, 2026-11: flat pages; an older store
// becomes one when it is opened, and programs that do not know them would leave those
// of deleted layers behind.
package cow
