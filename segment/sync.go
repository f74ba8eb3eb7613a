package segment

import (
	"context"
	"fmt"
	"runtime"
	"slices"

	"github.com/slackerd/slacker/block"
)

// syncRound is one group commit.
type syncRound struct{ done chan struct{} }

// Sync makes every record appended before the call durable. One caller leads:
// it writes out what there is and fdatasyncs for all that wait; those that come
// during a round wait for the next. (S1) When ctx ends first, Sync returns and
// what it asked for may or may not be durable.
//
// While a caller waits, appenders do not run far ahead of it (S14).
func (l *Log) Sync(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushers++
	defer func() { l.flushers-- }()
	return l.sync(ctx, false)
}

// SyncBehind is Sync for who works in the background: it holds up no appender,
// however long it takes.
func (l *Log) SyncBehind(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sync(ctx, false)
}

// fairBlocks is 16 MiB: what disks write in some tens of milliseconds. Less takes a
// third of the rate of who writes beside somebody that flushes all the time.
const fairBlocks = 4096

// aheadOfRound says whether an appender of payload has to wait for the round (S14).
// Called with mu held.
func (l *Log) aheadOfRound() bool {
	return l.round != nil && l.flushers > 0 && l.behind >= fairBlocks
}

// sync is Sync; all asks for what holds no records too: headers of segments and
// end markers. Called with mu held, which it releases meanwhile.
func (l *Log) sync(ctx context.Context, all bool) error {
	target := l.next - 1
	for yielded := false; ; {
		if err := l.usable(); err != nil {
			return err
		}
		if l.durable >= target && (!all || l.round == nil && len(l.pending)+len(l.dirty) == 0) {
			return nil
		}
		if l.round == nil && !yielded && l.syncers.expected() {
			yielded = true // others that are ready to sync share the round
			l.mu.Unlock()
			runtime.Gosched()
			l.mu.Lock()
			l.syncers.came(l.next-1 > target || l.round != nil || l.durable >= target)
			continue
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
	l.round, l.behind = r, 0
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
	l.cond.Broadcast() // S14
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
		if err := l.writeOldest(); err != nil {
			return err
		}
	}
}

// writeOldest writes the oldest pending chunk. Called with writeMu and mu held;
// it releases mu.
func (l *Log) writeOldest() error {
	c := l.pending[0]
	l.awaitZeros(c)
	for c.writing > 0 { // S12
		l.cond.Wait()
	}
	l.mu.Unlock()
	if !c.settled() {
		if err := l.writeChunk(c, c.payload(c.settledBlocks), c.buf[:block.Size]); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c.seg.written.Store(c.pos + 1 + c.used) // S10: nothing writes there any more
	l.pending = slices.Delete(l.pending, 0, 1)
	if !slices.Contains(l.dirty, c.seg) {
		l.dirty = append(l.dirty, c.seg)
	}
	if c.pooled {
		l.free = append(l.free, c)
		l.nBuffers--
		l.cond.Broadcast()
	}
	return nil
}

// writeChunk writes a header and the payload behind what is settled of c. When
// nothing is, they may go in one piece. Else the payload goes first, so that
// the header in the file never speaks of payload that is not: a write is cut
// short when the process is killed in it, and what the old header spoke of has
// been answered. A failure fences the log.
func (l *Log) writeChunk(c *chunk, payload, header []byte) error {
	f, err := l.acquire(c.seg)
	if err == nil {
		defer c.seg.release()
		at := int64(c.pos) * block.Size
		if c.settledBlocks == 0 && c.settledEntries == 0 && &header[0] == &c.buf[0] {
			_, err = f.WriteAt(c.buf[:block.Size+len(payload)], at)
		} else {
			if len(payload) > 0 {
				_, err = f.WriteAt(payload, at+int64(1+c.settledBlocks)*block.Size)
			}
			if err == nil {
				_, err = f.WriteAt(header, at)
			}
		}
	}
	if err != nil {
		return l.fail(err, fmt.Sprintf("write segment %d at block %d", c.seg.id, c.pos))
	}
	return nil
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
