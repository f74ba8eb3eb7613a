package segment

import (
	"context"
	"fmt"
	"slices"

	"github.com/slackerd/slacker/block"
)

// Delete removes a sealed segment; its removal is durable on return. Readers in
// progress finish first, later ones get ErrGone. The caller has made durable
// that nothing refers to it, and that no replay begins before its end.
func (l *Log) Delete(id block.SegmentID) error {
	for {
		l.mu.Lock()
		err := l.usable()
		s := l.segment(id)
		busy := s != nil && slices.ContainsFunc(l.pending, func(c *chunk) bool { return c.seg == s }) || slices.Contains(l.dirty, s)
		active := s != nil && (s == l.tail || s == l.prepared)
		round := l.round
		l.mu.Unlock()
		switch {
		case err != nil:
			return err
		case s == nil:
			return &block.Error{Kind: block.NotFound, Text: fmt.Sprintf("delete segment %d: segment is gone", id), Err: ErrGone}
		case active:
			return block.Errorf(block.Busy, "delete segment %d: the log ends there", id)
		case round != nil:
			// It may be syncing this very file.
			<-round.done
			continue
		case busy:
			if err := l.sync(context.Background(), true); err != nil {
				return err
			}
			continue
		}
		return l.unlink(s, l.spareFor(s))
	}
}

// unlink removes a segment's file, or keeps it as a spare. Only segments that
// are older than the tail may be kept: the ids of others may be used again.
func (l *Log) unlink(s *segFile, spare string) error {
	kept, err := s.remove(l, spare)
	if err != nil {
		return err
	}
	l.segs.Delete(s.id)
	l.mu.Lock()
	l.full = false
	if kept {
		defer func() { // once its new name is durable
			l.mu.Lock()
			l.spares = append(l.spares, spare)
			l.mu.Unlock()
		}()
	}
	l.mu.Unlock()
	if err := l.syncDir(); err != nil {
		return l.fail(err, "sync "+l.o.Dir)
	}
	l.deleted.Add(1)
	l.CheckRoom()
	return nil
}
