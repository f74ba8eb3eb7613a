package nbdserver

import (
	"net"
	"sync"
	"time"

	"github.com/slackerd/slacker/block"
)

// maxQueuedBytes is how much may wait to be sent before whoever has more to
// send waits too.
const maxQueuedBytes = 1 << 20

// maxSmallBytes is maxQueuedBytes of small replies, whose memory is in no budget;
// more of it is not kept for the next either.
const maxSmallBytes = 64 << 10

// sender writes replies. Any goroutine of the connection may send; the first
// one writes, also for those that come while it does, so that many replies
// share one system call.
type sender struct {
	c *conn

	mu      sync.Mutex
	moved   sync.Cond // the queue was taken, or nobody writes
	writing bool
	queued  int       // bytes in small and big
	small   []byte    // whole replies
	big     []*buffer // whole replies

	// Of the goroutine that writes.
	wroteSmall []byte
	wroteBig   []*buffer
	vec, rest  net.Buffers
	deadline   time.Time
}

func (s *sender) init(c *conn) {
	s.c = c
	s.moved.L = &s.mu
}

// send queues a copy of small and b, which it takes over, and writes
// the queue unless another goroutine is at it. After kill it drops them.
func (s *sender) send(small []byte, b *buffer) {
	s.mu.Lock()
	for s.writing && (s.queued > maxQueuedBytes || len(s.small) > maxSmallBytes) {
		s.moved.Wait()
	}
	s.small = append(s.small, small...)
	s.queued += len(small)
	if b != nil {
		s.big = append(s.big, b)
		s.queued += b.to - b.from
	}
	if s.writing {
		s.mu.Unlock()
		return
	}
	s.writing = true
	s.drain()
}

// busy reports whether replies are on their way.
func (s *sender) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writing
}

// idle waits until no replies are on their way.
func (s *sender) idle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.writing {
		s.moved.Wait()
	}
}

// exclusive has fn write whole replies when nobody else writes; what others
// queue meanwhile goes out behind. An error ends the connection.
func (s *sender) exclusive(fn func() error) {
	s.mu.Lock()
	for s.writing {
		s.moved.Wait()
	}
	s.writing = true
	s.mu.Unlock()
	if !s.c.dead.Load() {
		err := s.extendDeadline()
		if err == nil {
			err = fn()
		}
		if err != nil {
			s.c.kill(block.Errorf(block.IO, "send replies: %w", err))
		}
	}
	s.mu.Lock()
	s.drain()
}

// drain writes what is queued and ends the caller's turn. Called with mu held,
// which it releases.
func (s *sender) drain() {
	for s.queued > 0 {
		s.small, s.wroteSmall = s.wroteSmall[:0], s.small
		s.big, s.wroteBig = s.wroteBig[:0], s.big
		s.queued = 0
		s.moved.Broadcast()
		s.mu.Unlock()
		s.write()
		s.mu.Lock()
	}
	s.writing = false
	s.moved.Broadcast()
	s.mu.Unlock()
}

// write writes what was taken from the queue and releases it.
func (s *sender) write() {
	if !s.c.dead.Load() {
		if err := s.writeAll(); err != nil {
			s.c.kill(block.Errorf(block.IO, "send replies: %w", err))
		}
	}
	if cap(s.wroteSmall) > maxSmallBytes {
		s.wroteSmall = nil
	}
	for i, b := range s.wroteBig {
		b.release()
		s.wroteBig[i] = nil
	}
}

func (s *sender) writeAll() error {
	if err := s.extendDeadline(); err != nil {
		return err
	}
	s.vec = s.vec[:0]
	if len(s.wroteSmall) > 0 {
		s.vec = append(s.vec, s.wroteSmall)
	}
	for _, b := range s.wroteBig {
		s.vec = append(s.vec, b.wire())
	}
	if len(s.vec) == 1 {
		_, err := s.c.nc.Write(s.vec[0])
		return err
	}
	s.rest = s.vec
	_, err := s.rest.WriteTo(s.c.nc)
	return err
}

// extendDeadline keeps the write deadline between 7/8 of the limit and the
// limit away, without setting it for each write.
func (s *sender) extendDeadline() error {
	stall := s.c.srv.limits.Stall
	now := time.Now()
	if s.deadline.Sub(now) > stall-stall/8 {
		return nil
	}
	s.deadline = now.Add(stall)
	return s.c.nc.SetWriteDeadline(s.deadline)
}
