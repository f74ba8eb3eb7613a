package segment

import (
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/slackerd/slacker/block"
)

// chunk is a chunk in memory, or a single header block (of a segment, or an
// end marker) on its way to the file.
type chunk struct {
	seg     *segFile
	pos     uint32 // block number of the header
	used    uint32 // payload blocks
	off     int    // end of the entries
	entries uint32
	first   LSN
	seq     uint64
	buf     []byte
	pooled  bool // buf has room for a full chunk and goes back to the pool
	// direct: payload goes from the appender's memory to the file at once, and
	// never to buf. writing is how many appenders are at that.
	direct  bool
	writing int

	// What Settle has written of it: payload blocks, and a header of that
	// many entries with that checksum.
	settledBlocks, settledEntries, settledCRC uint32
}

// directBlocks is the shortest run that makes a chunk direct: a copy into memory
// that is in no cache of the CPU costs as much as a system call then.
const directBlocks = 16

// payload returns the payload blocks from one on that are not in the file.
func (c *chunk) payload(from uint32) []byte {
	if c.direct {
		return nil
	}
	return c.buf[(1+int(from))*block.Size : (1+int(c.used))*block.Size]
}

// settled reports whether all of it is in the file.
func (c *chunk) settled() bool { return c.entries > 0 && c.settledEntries == c.entries }

// room returns how many blocks of a run of kind k the chunk takes; limit is
// the segment's length.
func (c *chunk) room(k Kind, limit uint32) uint32 {
	left := maxEntriesEnd - c.off - entryBytes
	if k == Zero {
		if left < 0 {
			return 0
		}
		return 1
	}
	if k == Move {
		left -= moveBytes
	}
	if left < 4 {
		return 0
	}
	// One block at the end of the segment is kept for the end marker.
	return min(uint32(left/4), maxChunkBlocks-c.used, limit-1-(c.pos+1+c.used))
}

// Append adds a record: it fills in LSN and Addr, and Sums when nil, and copies
// data or writes it, so that the caller may reuse it at once. Of rec it uses Kind,
// Layer, First, Count, Sums (kept, not copied) and Old.
//
// A run that does not fit in the open chunk is split into pieces of at most
// 256 blocks, each a record of its own. commit, when not nil, is called for
// every piece under the log's lock, so that callers see records in order of
// LSN; it must be quick and must not call the log. A piece may be read once Append
// has returned: its payload may still be on its way when commit is called. Append
// returns the last piece. Other appenders may come between two pieces.
//
// Append waits when too much is unwritten. Nothing is durable until Sync. When
// it returns NoSpace (S5), no segment could be made: earlier pieces of the same call
// stay, all that was appended before still syncs, and Append may be tried again.
// Any other error but Invalid is the fault that fenced the log; then what commit
// was called for in this call may not be in the file, and is not to be read.
func (l *Log) Append(rec Record, data []byte, commit func(Record)) (Record, error) {
	if err := rec.check(data); err != nil {
		return Record{}, err
	}
	if rec.Kind == Zero {
		rec.Sums, rec.Old = nil, 0
	} else if rec.Sums == nil {
		rec.Sums = make([]uint32, rec.Count)
		for i := range rec.Sums {
			rec.Sums[i] = block.Checksum(rec.First+block.Index(i), data[i*block.Size:(i+1)*block.Size])
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		room, err := l.reserve(rec.Kind, rec.Kind != Zero && rec.Count >= directBlocks)
		if err != nil {
			return Record{}, err
		}
		piece := rec
		if rec.Kind != Zero {
			piece.Count = min(rec.Count, room)
			piece.Sums = slices.Clip(rec.Sums[:piece.Count])
		}
		c := l.add(&piece, data)
		if commit != nil {
			commit(piece)
		}
		if c.direct && piece.Kind != Zero {
			if err := l.writeDirect(c, piece.Addr.Block(), data[:int(piece.Count)*block.Size]); err != nil {
				return Record{}, err
			}
		}
		if piece.Count == rec.Count {
			return piece, nil
		}
		data = data[int(piece.Count)*block.Size:]
		rec.First += block.Index(piece.Count)
		rec.Count -= piece.Count
		rec.Sums = rec.Sums[piece.Count:]
		if rec.Kind == Move {
			rec.Old += block.Addr(piece.Count)
		}
	}
}

// add puts a piece that fits into the open chunk, but for the payload when that
// is direct, which writeDirect must follow for. Called with mu held.
func (l *Log) add(piece *Record, data []byte) *chunk {
	c := l.open
	piece.LSN = l.next
	l.next++
	if piece.Kind == Zero {
		c.seg.zeros.Add(1)
	} else {
		at := c.pos + 1 + c.used
		piece.Addr = block.MakeAddr(c.seg.id, at)
		if c.direct {
			c.writing++
		} else {
			copy(c.buf[(1+int(c.used))*block.Size:], data[:int(piece.Count)*block.Size])
		}
		c.used += piece.Count
		l.behind += piece.Count
		c.seg.payload.Add(piece.Count)
	}
	c.off = putEntry(c.buf, c.off, piece)
	c.entries++
	if c.used == maxChunkBlocks {
		l.chunkFull()
	}
	return c
}

// writeDirect writes payload of a direct chunk, from block at on. Who writes the
// chunk's header awaits it (S12). Called with mu held, which it releases meanwhile.
// A failure fences the log.
func (l *Log) writeDirect(c *chunk, at uint32, data []byte) error {
	l.awaitZeros(c)
	err := l.Fault()
	l.mu.Unlock()
	if err == nil { // S6
		var f vfs.File
		if f, err = l.acquire(c.seg); err == nil {
			_, err = f.WriteAt(data, int64(at)*block.Size)
			c.seg.release()
		}
		if err != nil {
			err = l.fail(err, fmt.Sprintf("write segment %d at block %d", c.seg.id, at))
		}
	}
	l.mu.Lock()
	if c.writing--; c.writing == 0 {
		l.cond.Broadcast()
	}
	return err
}

// chunkFull closes the open chunk. Who appends usually settles or syncs next,
// which writes it; the writer comes in only when nobody does. Called with mu held.
func (l *Log) chunkFull() {
	l.closeChunk()
	if len(l.pending) > writeBehind {
		wake(l.wakeW)
	}
}

// reserve makes the open chunk one that has room for at least one block of kind
// k, and a direct one if that is asked for, and returns the room. Called with mu
// held, which it may release meanwhile.
func (l *Log) reserve(k Kind, direct bool) (uint32, error) {
	for {
		if err := l.usable(); err != nil {
			return 0, err
		}
		switch {
		case k == Data && (l.short || l.held):
			return 0, l.noRoom()
		case k != Zero && l.aheadOfRound():
			l.cond.Wait() // S14
		case l.open != nil:
			if n := l.open.room(k, l.segBlocks); n > 0 && (l.open.direct || !direct) {
				return n, nil
			}
			l.chunkFull()
		case !l.tailHasRoom():
			if err := l.rotate(strictnessOf(k)); err != nil {
				return 0, err
			}
		case l.nBuffers >= maxUnwritten:
			wake(l.wakeW)
			l.cond.Wait()
		default:
			l.openChunk(direct)
		}
	}
}

// tailHasRoom says whether a chunk with a payload block and the end marker fit.
func (l *Log) tailHasRoom() bool {
	return l.tail != nil && !l.cut && l.cursor+3 <= l.segBlocks
}

func (l *Log) openChunk(direct bool) {
	var c *chunk
	if n := len(l.free); n > 0 {
		c, l.free = l.free[n-1], l.free[:n-1]
		clear(c.buf[:block.Size])
	} else {
		c = &chunk{buf: make([]byte, (1+maxChunkBlocks)*block.Size), pooled: true}
	}
	*c = chunk{buf: c.buf, pooled: true, direct: direct, seg: l.tail, pos: l.cursor, off: chunkFixedBytes, first: l.next}
	l.nBuffers++
	l.open = c
}

// closeChunk finishes the open chunk, if any, and queues it for writing.
// Called with mu held.
func (l *Log) closeChunk() {
	c := l.open
	if c == nil {
		return
	}
	l.open = nil
	l.seal(c, 0)
	if l.cursor > l.segBlocks/2 && l.prepared == nil && !l.full {
		wake(l.wakeP)
	}
}

// seal writes the chunk's header and queues it. The header that Settle wrote
// for the same entries stands.
func (l *Log) seal(c *chunk, flags uint32) {
	if c.settled() {
		l.prevCRC = c.settledCRC
	} else {
		l.prevCRC = l.encodeHeader(c, flags, c.buf)
	}
	l.cursor = c.pos + 1 + c.used
	l.enqueue(c)
}

// encodeHeader writes the header of c as it is now, but for its entries, into b.
func (l *Log) encodeHeader(c *chunk, flags uint32, b []byte) (crc uint32) {
	h := chunkHeader{store: l.o.StoreID, segment: c.seg.id, pos: c.pos, flags: flags, first: c.first, durable: l.durable,
		entries: c.entries, blocks: c.used, prevCRC: l.prevCRC, bytes: uint32(c.off)}
	return h.seal(b)
}

func (l *Log) enqueue(c *chunk) {
	l.closedSeq++
	c.seq = l.closedSeq
	l.pending = append(l.pending, c)
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
