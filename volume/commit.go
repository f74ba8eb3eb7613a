package volume

import (
	"context"
	"sync"
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
	"github.com/slackerd/slacker/segment"
	"go.uber.org/zap"
)

// queueShare is the part of the page cache, as its inverse, that pages with
// changes which are not committed may take.
const queueShare = 2

// queue holds the changes that are not in the map yet, in the order of the log.
type queue struct {
	mu      sync.Mutex
	changes []*cow.Change
	// pages is how many pages the changes that are not committed are of, each
	// change counted for itself. Such pages cannot leave the cache, so beyond
	// maxPages writers wait.
	pages, commitAt, maxPages int
	applied                   sync.Cond // a change was applied or committed
	wake                      chan struct{}
}

func (q *queue) init() {
	q.applied.L = &q.mu
	q.wake = make(chan struct{}, 1)
}

// bound sizes the queue for a cache of so many pages. It comes before add.
func (q *queue) bound(cachePages int) {
	q.maxPages = cachePages / queueShare
	// Few large commits beat many small ones: each syncs the log, and changes of
	// one page meet in it. What is left is for writes that come meanwhile.
	q.commitAt = q.maxPages * 3 / 4
}

// add is called in the order of the log, under the log's lock.
func (q *queue) add(c *cow.Change) {
	q.mu.Lock()
	q.changes = append(q.changes, c)
	q.pages += c.Run.Pages()
	early := q.pages >= q.commitAt
	q.mu.Unlock()
	if early {
		q.nudge()
	}
}

func (q *queue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// room waits until there is room in the cache for another change's pages.
func (q *queue) room(failed func() error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.pages >= q.maxPages {
		if err := failed(); err != nil {
			return err
		}
		q.nudge()
		q.applied.Wait()
	}
	return nil
}

// take removes and returns the changes up to lsn, in the order of the log (V1), once
// all are applied.
func (q *queue) take(lsn uint64) []*cow.Change {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for n < len(q.changes) && q.changes[n].LSN <= lsn {
		for !q.changes[n].Applied() {
			q.applied.Wait()
		}
		n++
	}
	taken := q.changes[:n:n]
	q.changes = q.changes[n:]
	if len(q.changes) == 0 {
		q.changes = nil
	}
	return taken
}

// committed says that what take returned is in the map.
func (q *queue) committed(changes []*cow.Change) {
	q.mu.Lock()
	for _, c := range changes {
		q.pages -= c.Run.Pages()
	}
	q.applied.Broadcast()
	q.mu.Unlock()
}

// signal tells take that changes were applied.
func (q *queue) signal() {
	q.mu.Lock()
	q.applied.Broadcast()
	q.mu.Unlock()
}

// committer moves durable changes into the map, and bounds how long an
// unflushed write stays in memory.
func (s *Store) committer(ctx context.Context) {
	defer s.done.Done()
	tick := time.NewTicker(s.o.CommitInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if s.leaving.Load() {
				continue
			}
			s.reapImports(ctx)
			s.checkRoom()
			if err := s.db.SyncJournal(); err != nil {
				s.o.Logger.Warn("the journal of the catalog is behind", zap.Error(err))
			}
		case <-s.queue.wake:
		}
		if s.Fault() != nil {
			s.queue.signal() // writers that wait for room must see it
			continue
		}
		if err := s.Flush(ctx); err != nil && ctx.Err() == nil {
			s.o.Logger.Error("commit of changes failed", zap.Error(err))
		}
	}
}

// Flush makes every change so far durable and commits it to the map.
func (s *Store) Flush(ctx context.Context) error {
	if err := s.log.SyncBehind(ctx); err != nil {
		return err
	}
	s.commits.Lock()
	defer s.commits.Unlock()
	pos, lsn := s.log.DurablePos()
	changes := s.queue.take(uint64(lsn))
	if len(changes) == 0 && pos.Segment == s.replayFrom {
		return s.Fault()
	}
	return s.commitChanges(changes, pos, lsn)
}

// commitChanges commits changes, the last of them lsn, with the position that
// follows on them. They follow on what was committed before.
func (s *Store) commitChanges(changes []*cow.Change, pos segment.Pos, lsn segment.LSN) error {
	x := s.db.Begin()
	x.ApplyAll(s.tree, changes)
	x.SetReplay(cow.ReplayPoint{Segment: pos.Segment, Block: pos.Block, NextLSN: uint64(lsn) + 1})
	if err := s.commit(x); err != nil {
		return err
	}
	s.replayFrom = pos.Segment
	s.tree.Committed(uint64(lsn))
	s.queue.committed(changes)
	return nil
}

// replay brings the map up to the end of the log.
func (s *Store) replay(ctx context.Context, from cow.ReplayPoint) error {
	next := segment.LSN(max(1, from.NextLSN))
	records := 0
	end, next, err := s.log.Replay(ctx, segment.Pos{Segment: from.Segment, Block: from.Block}, next, func(r segment.Record) error {
		records++
		return s.redo(r)
	})
	if err != nil {
		return err
	}
	if records > 0 {
		s.o.Logger.Info("replayed the log", zap.Int("records", records), zap.Uint64("segment", uint64(end.Segment)), zap.Uint32("block", end.Block))
	}
	if uint64(next) == s.o.LogEndsBefore {
		s.replayFrom = from.Segment
		return nil // the committer does it, while clients are served
	}
	pos, _ := s.log.DurablePos()
	return s.commitChanges(s.queue.take(uint64(next)), pos, next-1)
}

// redo applies one record of the log to the pages in memory. What belongs to a
// layer that has been deleted since does not count; but a layer is durable
// before anything is written to it, so one that is yet to be made was lost.
func (s *Store) redo(r segment.Record) error {
	if uint64(r.Layer) >= s.nextID {
		return block.Errorf(block.Corrupt, "replay: record %d is of layer %d, and the extent map knows ids below %d only: it has lost commits", r.LSN, r.Layer, s.nextID)
	}
	l := s.tree.Layer(r.Layer)
	if l == nil || r.Count == 0 {
		return nil
	}
	pin, err := s.tree.Pin(l, r.First, uint64(r.Count))
	if err != nil {
		return err
	}
	defer pin.Release()
	if r.Kind == segment.Move && stillAt(pin, r.First, r.Count, r.Old) != r.Count {
		s.o.Logger.Warn("replay: a relocation does not match the map; left out", zap.Uint64("layer", uint64(r.Layer)), zap.Uint64("block", uint64(r.First)))
		return nil
	}
	c := newChange(l, r)
	s.queue.add(c)
	pin.Apply(c, r.Kind == segment.Move)
	return nil
}

// newChange makes the change that a numbered record stands for.
func newChange(l *cow.Layer, r segment.Record) *cow.Change {
	c := &cow.Change{LSN: uint64(r.LSN), Layer: l, Run: cow.Run{First: r.First, Count: r.Count}}
	if r.Kind != segment.Zero {
		c.Run.Addr, c.Run.Sums = r.Addr, r.Sums
	}
	return c
}
