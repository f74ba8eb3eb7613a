package activity

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver"
	"go.uber.org/zap"
)

// The log of slow requests takes a burst, and then one in each interval.
const (
	slowBurst    = 10
	slowInterval = time.Second
)

// slowLog writes one line for each slow request, at a bounded rate.
type slowLog struct {
	log  *zap.Logger
	now  func() time.Time
	seen atomic.Uint64

	mu      sync.Mutex
	tokens  int
	since   time.Time // when the last token was added
	leftOut uint64
}

func newSlowLog(log *zap.Logger, now func() time.Time) *slowLog {
	return &slowLog{log: log, now: now, tokens: slowBurst, since: now()}
}

// allow says whether a line may be written, and how many were left out before.
func (s *slowLog) allow() (ok bool, leftOut uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := int(min(s.now().Sub(s.since)/slowInterval, slowBurst)); n > 0 {
		s.tokens = min(s.tokens+n, slowBurst)
		s.since = s.now()
	}
	if s.tokens == 0 {
		s.leftOut++
		return false, 0
	}
	s.tokens--
	leftOut, s.leftOut = s.leftOut, 0
	return true, leftOut
}

func (s *slowLog) report(c *Connection, d nbdserver.Done) {
	s.seen.Add(1)
	ok, leftOut := s.allow()
	if !ok {
		return
	}
	who := c.who()
	fields := []zap.Field{zap.String("volume", who.Target), zap.String("attachment", who.Attachment), zap.String("worker", who.Worker),
		zap.Uint64("conn", c.conn.ID), zap.String("remote", c.conn.Remote), zap.Stringer("command", d.Command),
		zap.Stringer("result", d.Result), zap.Uint64("off_bytes", d.OffBytes), zap.Uint64("length_bytes", d.LengthBytes),
		zap.Duration("took", d.Took), zap.Duration("payload", d.Payload), zap.Duration("queue", d.Queued),
		zap.Duration("device", d.Took-d.Payload-d.Queued)}
	if d.Waits != nil {
		for _, stage := range block.Stages() {
			fields = append(fields, zap.Duration(stage.String(), d.Waits.In(stage)))
		}
	}
	if leftOut > 0 {
		fields = append(fields, zap.Uint64("left_out", leftOut))
	}
	s.log.Warn("slow request", fields...)
}
