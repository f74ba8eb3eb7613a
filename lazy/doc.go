// Package lazy reads volumes of a distant server: it answers from a cache of the
// worker what the volume still shares with the snapshot that it started from.
//
// Nouns:
//
//   - base: the snapshot below a volume, immutable, see package blockcache.
//   - clean: a block that the volume has not written since the base. The server
//     says which blocks those are when an attachment begins; from then on only
//     this attachment writes, and [Volume] sees each of its writes.
//   - trace: the blocks of a base that an earlier start of a clone of it read, in
//     order; see package boottrace. This start is recorded to make the next.
//   - fetch: reading blocks of a base compressed, over a distant link: what a read
//     misses, with a window of blocks around it, and the blocks of a trace, in
//     batches, while the start goes on.
//   - flight: the blocks of one fetch.
//   - fill: keeping a block that was read in the cache of its base.
//
// Invariants:
//
//	Z1  A read is answered from the cache only for blocks that are clean when it
//	    arrives. A write, trim or zeroing makes its blocks dirty, whole and for as
//	    long as the attachment lasts, before it is sent.
//	Z2  A block is filled only if it is clean after its reply has arrived. A reply
//	    that shows a write was sent after that write, which had made the block dirty
//	    before: so nothing that was written here gets into the cache.
//	Z3  Until the server has said of a block that it is clean, it is dirty. The
//	    server is asked after it has fenced whoever wrote before, which of a new
//	    process of the same attachment is the old one: it is asked anew.
//	Z4  A volume that only reads, and that somebody else may write, has no base.
//	Z5  Nothing here fails or holds up a read that the server would have answered.
//	    The goroutine that submits does not wait for the disk. Once the server has
//	    refused the attachment for good nothing is answered from the cache.
//	Z6  What is fetched is read of the base itself, not of the volume, and so is
//	    right whatever is written meanwhile; only clean blocks are. A read waits for
//	    flights with blocks that it misses, and for no others. It is answered with
//	    what they bring, whether that can be kept or not, so that nothing is fetched
//	    twice for it. Of all processes of a worker one at a time fetches a base's trace.
//	Z7  What flies is bounded: maxDemands fetches for reads of maxFetchBlocks, and
//	    fetchers of the trace. A read of which not all flies, or whose fetch fails or
//	    takes longer than demandPatience, is read plainly; and after a failure all
//	    are, for a while.
//
// What Z1 leaves open: an attachment that another worker has taken over reads,
// until it hears of that, what the volume was when it was taken, as it does from
// the page cache of its file system.
package lazy
