package segment

import (
	"context"
	"fmt"
	"slices"

	"github.com/slackerd/slacker/block"
)

// syncRound is one group commit.
type syncRound struct{ done chan struct{} }

// Sync makes every record appended before the call durable. One caller leads:
// it writes out what there is and fdatasyncs for all that wait; those that come
// during a round wait for the next. When ctx ends first, Sync returns and
// what it asked for may or may not be durable.
func (l *Log) Sync(ctx context.Context) error { return l.sync(ctx, false) }

// sync is Sync; all asks for what holds no records too: headers of segments and
// end markers.
func (l *Log) sync(ctx context.Context, all bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	target := l.next - 1
	for {
		if err := l.usable(); err != nil {
			return err
		}
		if l.durable >= target && (!all || l.round == nil && len(l.pending)+len(l.dirty) == 0) {
			return nil
		}
		if l.round == nil {
			if err := l.lead(); err != nil {
				return err
			}
			continue
		}
		r := l.round
		l.mu.Unlock()
		var err error
		select {
		case <-r.done:
		case <-ctx.Done():
			err = block.Wrap(block.Unavailable, ctx.Err(), "sync")
		}
		l.mu.Lock()
		if err != nil {
			return err
		}
	}
}

// lead runs a round. Called with mu held, which it releases meanwhile.
func (l *Log) lead() error {
	r := &syncRound{done: make(chan struct{})}
	l.round = r
	l.closeChunk()
	l.zeroMore()
	last, seq, pos := l.next-1, l.closedSeq, Pos{l.tail.id, l.cursor}
	l.mu.Unlock()
	err := l.writeOut(seq)
	if err == nil {
		err = l.syncFiles()
	}
	l.mu.Lock()
	if err == nil {
		l.durable, l.durablePos = last, pos
	}
	l.round = nil
	close(r.done)
	return err
}

// writeOut writes pending chunks, oldest first, up to the one numbered seq.
func (l *Log) writeOut(seq uint64) error {
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	for {
		l.mu.Lock()
		if err := l.Fault(); err != nil || len(l.pending) == 0 || l.pending[0].seq > seq {
			l.mu.Unlock()
			return err
		}
		c := l.pending[0]
		l.awaitZeros(c)
		l.mu.Unlock()
		if err := l.writeChunk(c); err != nil {
			return l.fail(err, fmt.Sprintf("write segment %d at block %d", c.seg.id, c.pos))
		}
		l.mu.Lock()
		c.seg.written.Store(c.pos + 1 + c.used)
		l.pending = slices.Delete(l.pending, 0, 1)
		if !slices.Contains(l.dirty, c.seg) {
			l.dirty = append(l.dirty, c.seg)
		}
		if c.pooled {
			l.free = append(l.free, c)
			l.nBuffers--
			l.cond.Broadcast()
		}
		l.mu.Unlock()
	}
}

func (l *Log) writeChunk(c *chunk) error {
	f, err := l.acquire(c.seg)
	if err != nil {
		return err
	}
	defer c.seg.release()
	_, err = f.WriteAt(c.bytes(), int64(c.pos)*block.Size)
	return err
}

// syncFiles makes what was written durable, oldest file first: a segment never
// becomes durable before the end of the one before it.
func (l *Log) syncFiles() error {
	l.mu.Lock()
	files := l.dirty
	l.dirty = nil
	l.mu.Unlock()
	for _, s := range files {
		f, err := l.acquire(s)
		if err == nil {
			err = f.SyncData()
			s.release()
		}
		if err != nil {
			return l.fail(err, fmt.Sprintf("sync segment %d", s.id))
		}
	}
	return nil
}

// writer writes full chunks while appends go on.
func (l *Log) writer() {
	defer l.workers.Done()
	for {
		select {
		case <-l.quit:
			return
		case <-l.wakeW:
		}
		l.mu.Lock()
		seq := l.closedSeq
		l.mu.Unlock()
		// A fault is reported by fail and to every later caller.
		_ = l.writeOut(seq)
	}
}
