package segment

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
)

// Rotate seals the active segment and starts a new one; it does nothing when
// the active segment holds no records. It makes nothing durable.
func (l *Log) Rotate(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return block.Wrap(block.Unavailable, err, "rotate")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	l.closeChunk()
	if l.tail == nil || !l.cut && l.cursor == 1 {
		return nil
	}
	return l.rotate(freer)
}

// rotate makes a prepared segment the tail. Called with mu held and no open
// chunk; it releases mu while it prepares one, so the caller looks again.
func (l *Log) rotate(s strictness) error {
	was := l.tail
	for l.prepared == nil {
		if l.preparing {
			l.cond.Wait()
		} else if err := l.prepare(s); err != nil {
			return err
		}
		if err := l.usable(); err != nil {
			return err
		}
		if l.tail != was || l.open != nil {
			return nil // another appender rotated meanwhile
		}
	}
	l.activate()
	return nil
}

// activate ends the tail with an end marker and starts the prepared segment.
// Called with mu held.
func (l *Log) activate() {
	h := segmentHeader{store: l.o.StoreID, id: l.prepared.id, created: time.Now(), first: l.next, durable: l.durable}
	if l.tail != nil {
		if l.o.OnSealed != nil {
			l.o.OnSealed()
		}
		l.tail.end.Store(l.cursor)
		h.prev, h.prevPayload = Pos{l.tail.id, l.cursor}, l.tail.payload.Load()
		l.seal(&chunk{seg: l.tail, pos: l.cursor, off: chunkFixedBytes, first: l.next, buf: make([]byte, block.Size)}, flagEnd)
	}
	s := l.prepared
	l.prepared = nil
	c := &chunk{seg: s, buf: make([]byte, block.Size)}
	h.encode(c.buf)
	s.zeros.Store(1)
	s.header, s.valid, s.crc = h, true, block.MetaChecksum(c.buf[:crcOffset])
	l.enqueue(c)
	l.tail, l.cut, l.cursor, l.prevCRC = s, false, 1, s.crc
	l.ahead.done = 0
	if s.recycled {
		l.ahead.done = l.segBlocks
	}
}

// prepare creates and allocates the next segment. Called with mu held, which it
// releases meanwhile. NoSpace leaves the log as it was.
func (l *Log) prepare(how strictness) error {
	l.preparing = true
	if l.maxID >= block.MaxSegmentID {
		l.preparing = false
		return block.Errorf(block.NoSpace, "segment ids are used up: %d", l.maxID)
	}
	id := l.maxID + 1 // S2
	recycles := len(l.spares) > 0
	l.mu.Unlock()
	var short bool
	var err error
	if !recycles {
		short, err = l.mayMake(id, how)
	}
	var s *segFile
	if err == nil {
		s, err = l.create(id)
	}
	l.mu.Lock()
	l.preparing = false
	if err == nil {
		l.maxID = id
		l.short = l.short || short
		l.prepared, l.full = s, false
		l.segs.Store(id, s)
	} else if how == strict {
		l.full = true
	}
	l.cond.Broadcast()
	return err
}

// create makes a segment file whose space is allocated and whose name is
// durable, so that nothing appended to it can meet a full disk.
func (l *Log) create(id block.SegmentID) (*segFile, error) {
	s := &segFile{id: id, path: l.o.FS.PathJoin(l.o.Dir, FileName(id)), bytes: l.o.SegmentBytes}
	f, err := l.makeFile(s)
	if f != nil {
		s.file.Store(&f)
	}
	if err == nil {
		err = l.syncDir()
	}
	if err == nil {
		return s, nil
	}
	if f != nil {
		if _, rmErr := s.remove(l, ""); rmErr != nil {
			l.o.Logger.Warn("unfinished segment stays", zap.Error(rmErr))
		}
	}
	if isNoSpace(err) {
		return nil, block.Errorf(block.NoSpace, "make segment %d of %d bytes: %w", id, l.o.SegmentBytes, err)
	}
	return nil, l.fail(err, fmt.Sprintf("make segment %d", id))
}

// makeFile makes the file of a segment, durable but for its name: of a spare if
// there is one. A spare that cannot be used is lost, which costs nothing.
func (l *Log) makeFile(s *segFile) (vfs.File, error) {
	if spare := l.takeSpare(); spare != "" {
		f, err := l.recycle(spare, s)
		if err == nil {
			return f, nil
		}
		l.o.Logger.Warn("spare segment not used", zap.String("file", spare), zap.Error(err))
	}
	f, err := l.o.FS.Create(s.path, writeCategory)
	if err != nil {
		return nil, err
	}
	if err = l.allocate(f); err == nil {
		err = f.Sync()
	}
	return f, err
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// preparer makes the next segment while the present one is being filled.
func (l *Log) preparer() {
	defer l.workers.Done()
	for {
		select {
		case <-l.quit:
			return
		case <-l.wakeP:
		}
		l.mu.Lock()
		if l.usable() == nil && l.prepared == nil && !l.preparing {
			// A full disk is met again, and reported, by the Append that needs
			// the segment; until then there may be room.
			_ = l.prepare(strict)
		}
		l.mu.Unlock()
	}
}
