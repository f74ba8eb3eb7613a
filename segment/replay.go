package segment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
)

// Replay calls apply for every record from position from on, in order, the
// first being number nextLSN, and returns where the log ends and the number of
// the next record. The zero position is the very beginning; a zero nextLSN is 1.
// It must be called exactly once, before any Append.
//
// Every chunk header and every payload block is verified. The log ends at the
// first chunk that is torn, missing or not the successor of the one before; but
// when anything after that place says that records there were durable once, then
// if only payload is damaged they are taken (S13), else the log is damaged and the
// error is Corrupt: acknowledged data is never dropped silently. What was replayed
// is durable when Replay returns nil (unless the log is read-only). Appending goes
// on in a new segment whose header names the end found here, so that what was
// dropped can never come back (S3). An error of apply ends the replay and is
// returned as it is.
func (l *Log) Replay(ctx context.Context, from Pos, nextLSN LSN, apply func(Record) error) (Pos, LSN, error) {
	l.mu.Lock()
	again := l.replayed || l.closed
	l.mu.Unlock()
	if again {
		return Pos{}, 0, block.Errorf(block.Internal, "log in %s: replay for the second time or after close", l.o.Dir)
	}
	r := replayer{l: l, pos: from, next: max(nextLSN, 1), apply: apply, claims: l.claims(), buf: make([]byte, (1+maxChunkBlocks)*block.Size)}
	if err := r.run(ctx); err != nil {
		return Pos{}, 0, err
	}
	if !l.o.ReadOnly {
		if err := r.finish(); err != nil {
			return Pos{}, 0, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.replayed = true
	l.maxID = max(l.maxID, r.pos.Segment)
	l.tail, l.cut, l.cursor, l.prevCRC = r.seg, true, r.pos.Block, r.crc
	l.next, l.durable, l.durablePos = r.next, r.next-1, r.pos
	if !l.o.ReadOnly {
		l.workers.Add(3)
		go l.writer()
		go l.preparer()
		go l.zeroer()
	}
	return r.pos, r.next, nil
}

// claims maps each position where a segment says the log ended before it to
// that segment; of several (recoveries that were cut themselves) the newest.
func (l *Log) claims() map[Pos]*segFile {
	m := make(map[Pos]*segFile)
	l.segs.Range(func(_, v any) bool {
		if s := v.(*segFile); s.valid {
			if old := m[s.header.prev]; old == nil || old.id < s.id {
				m[s.header.prev] = s
			}
		}
		return true
	})
	return m
}

// errWrongLSN is a valid chunk in its place with other records than expected. No
// crash leaves that: the caller's position and number do not belong together.
var errWrongLSN = errors.New("chunk begins with the wrong record")

type replayer struct {
	l      *Log
	apply  func(Record) error
	claims map[Pos]*segFile
	buf    []byte

	pos     Pos
	next    LSN
	seg     *segFile // of pos; nil at the very beginning of an empty log
	crc     uint32   // of the header before pos
	anyCRC  bool     // the header before pos was not read
	visited []*segFile
	vouched *claim // see claim
}

// claim is the most that a header at or after some position says of what was
// durable when it was written, and where that header is.
type claim struct {
	durable LSN
	where   Pos
}

func (r *replayer) run(ctx context.Context) error {
	if err := r.begin(); err != nil {
		return err
	}
	for r.seg != nil {
		if err := ctx.Err(); err != nil {
			return block.Wrap(block.Unavailable, err, "replay")
		}
		if s := r.claims[r.pos]; s != nil && s.id > r.seg.id {
			if s.header.first != r.next {
				return block.Errorf(block.Corrupt, "replay: segment %d goes on from %s with record %d: want %d", s.id, r.pos, s.header.first, r.next)
			}
			if err := r.markEnd(); err != nil {
				return err
			}
			r.enter(s)
			continue
		}
		h, recs, err := r.readChunk()
		if block.Is(err, block.Corrupt) && !errors.Is(err, errWrongLSN) {
			return r.checkCut(err)
		}
		if err != nil {
			return err
		}
		if h.flags&flagEnd != 0 {
			return r.checkCut(nil)
		}
		for _, rec := range recs {
			if err := r.apply(rec); err != nil {
				return err
			}
		}
		r.next += LSN(len(recs))
		r.pos.Block += 1 + h.blocks
	}
	return nil
}

// begin finds the segment to start in.
func (r *replayer) begin() error {
	if r.pos == (Pos{}) {
		r.seg = r.claims[Pos{}]
		if r.seg == nil {
			return r.checkCut(nil)
		}
		if r.seg.header.first != r.next {
			return block.Errorf(block.Corrupt, "replay from the beginning: segment %d begins with record %d: want %d", r.seg.id, r.seg.header.first, r.next)
		}
		r.enter(r.seg)
		return nil
	}
	if r.pos.Block == 0 || r.pos.Block >= block.MaxSegmentBlocks {
		return block.Errorf(block.Corrupt, "replay from %s: no chunk can be there", r.pos)
	}
	if s := r.l.segment(r.pos.Segment); s != nil && s.valid {
		at := r.pos
		r.enter(s)
		r.pos, r.anyCRC = at, true
		return nil
	}
	s := r.claims[r.pos]
	if s == nil || s.header.first != r.next {
		return block.Errorf(block.Corrupt, "replay from %s: the segment is missing or has no valid header", r.pos)
	}
	r.enter(s)
	return nil
}

func (r *replayer) enter(s *segFile) {
	r.seg, r.pos, r.crc, r.anyCRC = s, Pos{s.id, 1}, s.crc, false
	r.visited = append(r.visited, s)
}

// readChunk reads and verifies the chunk at r.pos. A Corrupt error, unless it is
// errWrongLSN, means that there is none that follows.
func (r *replayer) readChunk() (chunkHeader, []Record, error) {
	h, crc, recs, err := r.l.readChunkHeader(r.seg, r.pos.Block, r.buf[:block.Size])
	if err != nil {
		return h, nil, err
	}
	if h.first != r.next {
		return h, nil, block.Errorf(block.Corrupt, "replay: %s: %w: got %d, want %d", r.pos, errWrongLSN, h.first, r.next)
	}
	if !r.anyCRC && h.flags&flagEnd == 0 && h.prevCRC != r.crc {
		return h, nil, block.Errorf(block.Corrupt, "%s: chunk follows header %#x: want %#x", r.pos, h.prevCRC, r.crc)
	}
	payload := r.buf[block.Size : (1+int(h.blocks))*block.Size]
	err = r.l.readFile(r.seg, r.pos.Block+1, payload)
	for i := 0; i < len(recs) && err == nil; i++ {
		err = recs[i].verify(&payload)
	}
	if err != nil {
		durable, cerr := r.wasDurable(h.first + LSN(h.entries) - 1)
		if cerr != nil {
			return h, nil, cerr
		}
		if !durable {
			return h, nil, err
		}
		r.l.o.Logger.Error("data is damaged; what was written is known, and reading it fails", zap.Stringer("at", r.pos), zap.Error(err)) // S13
	}
	r.crc, r.anyCRC = crc, false
	return h, recs, nil
}

// wasDurable says whether the log vouches for a record at or after r.pos.
func (r *replayer) wasDurable(n LSN) (bool, error) {
	if n < r.l.o.EndsBefore { // S11
		return true, nil
	}
	c, err := r.claim()
	return n <= c.durable, err
}

// claim returns what headers from r.pos on say was durable. Those before speak of
// records before r.next alone, so what was found at an earlier position holds.
func (r *replayer) claim() (c claim, err error) {
	if r.vouched != nil {
		return *r.vouched, nil
	}
	note := func(durable LSN, where Pos) {
		if durable > c.durable {
			c = claim{durable, where}
		}
	}
	buf := make([]byte, maxChunkBlocks*block.Size)
	r.l.segs.Range(func(_, v any) bool {
		s := v.(*segFile)
		if s.id < r.pos.Segment {
			return true
		}
		start := uint32(1)
		if s.id == r.pos.Segment {
			start = r.pos.Block
		} else if s.valid {
			note(s.header.durable, Pos{s.id, 0})
		}
		err = r.l.eachHeader(s, start, buf, func(pos uint32, h chunkHeader) { note(h.durable, Pos{s.id, pos}) })
		return err == nil
	})
	if err == nil {
		r.vouched = &c
	}
	return c, err
}

// verify checks the record's blocks, which payload begins with, and drops them
// from it.
func (r *Record) verify(payload *[]byte) error {
	for i, want := range r.Sums {
		if got := block.Checksum(r.First+block.Index(i), (*payload)[:block.Size]); got != want {
			return block.Errorf(block.Corrupt, "record %d: block %d at %s: want checksum %#x, got %#x", r.LSN, r.First+block.Index(i), r.Addr+block.Addr(i), want, got)
		}
		*payload = (*payload)[block.Size:]
	}
	return nil
}

// checkCut decides whether the log may end at r.pos: not if a header after it
// was written when a record from r.next on was durable already (S4).
func (r *replayer) checkCut(cause error) error {
	if cause == nil {
		cause = errors.New("no segment goes on from there")
	}
	if r.next == r.l.o.EndsBefore { // S11
		return nil
	}
	c, err := r.claim()
	if err != nil {
		return err
	}
	if c.durable >= r.next {
		return block.Errorf(block.Corrupt, "replay: records %d to %d were durable, as %s says, but the log ends at %s: %w", r.next, c.durable, c.where, r.pos, cause)
	}
	r.l.o.Logger.Info("log ends", zap.Stringer("at", r.pos), zap.Uint64("next", uint64(r.next)), zap.Error(cause))
	return nil
}

// finish makes what was replayed durable and forgets unused files.
func (r *replayer) finish() error {
	for _, s := range r.visited {
		f, err := r.l.acquire(s)
		if err == nil {
			err = f.Sync()
			s.release()
		}
		if err != nil {
			return r.l.fail(err, fmt.Sprintf("sync replayed segment %d", s.id))
		}
	}
	if err := r.l.syncDir(); err != nil {
		return r.l.fail(err, "sync "+r.l.o.Dir)
	}
	return r.dropRest()
}

// dropRest deletes the files after the end of the log: prepared ones that were
// never begun, and begun ones whose records a crash cut off. checkCut has seen
// that nothing in them was durable. A file whose header is damaged stays, for
// somebody to look at.
func (r *replayer) dropRest() (err error) {
	if err := r.l.dropSpares(); err != nil {
		return err
	}
	r.l.segs.Range(func(_, v any) bool {
		s := v.(*segFile)
		if s.id > r.pos.Segment && (s.blank || s.valid) {
			r.l.o.Logger.Info("dropping unused segment", zap.Uint64("segment", uint64(s.id)), zap.Bool("begun", s.valid))
			err = r.l.unlink(s, "")
		}
		return err == nil
	})
	r.l.findEnds()
	return err
}

// markEnd writes the end marker at r.pos when a crash lost it though the
// segment after it survived. finish makes it durable.
func (r *replayer) markEnd() error {
	h, _, _, err := r.l.readChunkHeader(r.seg, r.pos.Block, r.buf[:block.Size])
	if err == nil && h.flags&flagEnd != 0 && h.first == r.next || r.l.o.ReadOnly {
		return nil
	}
	if err != nil && !block.Is(err, block.Corrupt) {
		return err
	}
	b := make([]byte, block.Size)
	mark := chunkHeader{store: r.l.o.StoreID, segment: r.seg.id, pos: r.pos.Block, flags: flagEnd, first: r.next, bytes: chunkFixedBytes}
	mark.seal(b)
	f, err := r.l.acquire(r.seg)
	if err != nil {
		return err
	}
	defer r.seg.release()
	if _, err := f.WriteAt(b, int64(r.pos.Block)*block.Size); err != nil {
		return r.l.fail(err, fmt.Sprintf("end segment %d", r.seg.id))
	}
	return nil
}

// readFile reads whole blocks; a file that is too short is Corrupt.
func (l *Log) readFile(s *segFile, at uint32, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	f, err := l.acquire(s)
	if err != nil {
		return err
	}
	defer s.release()
	if _, err = f.ReadAt(p, int64(at)*block.Size); err == nil {
		return nil
	}
	kind := block.IO
	if errors.Is(err, io.EOF) {
		kind = block.Corrupt
	}
	return block.Errorf(kind, "read segment %d: %d bytes at block %d: %w", s.id, len(p), at, err)
}

func (l *Log) readChunkHeader(s *segFile, pos uint32, buf []byte) (chunkHeader, uint32, []Record, error) {
	if pos >= block.MaxSegmentBlocks {
		return chunkHeader{}, 0, nil, block.Errorf(block.Corrupt, "segment %d: no chunk can be at block %d", s.id, pos)
	}
	if err := l.readFile(s, pos, buf); err != nil {
		return chunkHeader{}, 0, nil, err
	}
	return decodeChunk(buf, l.o.StoreID, s.id, pos)
}

// eachHeader calls fn for every block from start on that is a valid chunk
// header of its place, whether it belongs to the log or not.
func (l *Log) eachHeader(s *segFile, start uint32, buf []byte, fn func(pos uint32, h chunkHeader)) error {
	f, err := l.acquire(s)
	if err != nil {
		return err
	}
	defer s.release()
	for pos := start; pos < block.MaxSegmentBlocks; {
		n, err := f.ReadAt(buf, int64(pos)*block.Size)
		if err != nil && !errors.Is(err, io.EOF) {
			return block.Errorf(block.IO, "read segment %d at block %d: %w", s.id, pos, err)
		}
		for b := buf[:n]; len(b) >= block.Size; b = b[block.Size:] {
			if h, _, err := decodeChunkHeader(b[:block.Size], l.o.StoreID, s.id, pos); err == nil {
				fn(pos, h)
			}
			pos++
		}
		if n < len(buf) {
			return nil
		}
	}
	return nil
}

// Scan calls fn for the records of one segment in order. Chunk headers are
// verified, payload is not read. A segment whose end was written (any but where
// the log ends) and that breaks off before its end is Corrupt. Scanning an
// active segment shows the records that are in the file. Of one whose header does
// not validate the error is Corrupt too, after the records.
func (l *Log) Scan(ctx context.Context, id block.SegmentID, fn func(Record) error) error {
	s := l.segment(id)
	if s == nil {
		return &block.Error{Kind: block.NotFound, Text: fmt.Sprintf("scan segment %d: segment is gone", id), Err: ErrGone}
	}
	l.mu.Lock()
	valid, crc, limit := s.valid, s.crc, s.written.Load()
	if end := s.end.Load(); s == l.tail && l.cut {
		limit = l.cursor
	} else if end != 0 {
		limit = min(limit, end)
	}
	l.mu.Unlock()
	buf, first, known := make([]byte, block.Size), s.header.first, valid
	for pos := uint32(1); pos < limit; {
		if err := ctx.Err(); err != nil {
			return block.Wrap(block.Unavailable, err, "scan")
		}
		h, c, recs, err := l.readChunkHeader(s, pos, buf)
		if err != nil {
			return err
		}
		end := h.flags&flagEnd != 0
		if known && (h.first != first || !end && h.prevCRC != crc) {
			return block.Errorf(block.Corrupt, "scan segment %d: chunk at block %d does not follow the one before", id, pos)
		}
		if end {
			limit = pos
			break
		}
		for _, rec := range recs {
			if err := fn(rec); err != nil {
				return err
			}
		}
		crc, first, known, pos = c, h.first+LSN(len(recs)), true, pos+1+h.blocks
	}
	if !valid {
		return block.Errorf(block.Corrupt, "scan segment %d: header does not validate", id)
	}
	if limit == math.MaxUint32 {
		return block.Errorf(block.Corrupt, "scan segment %d: no end", id)
	}
	return nil
}
