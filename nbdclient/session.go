package nbdclient

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
)

// Back-off between attempts to reconnect a slot, and how long a server may
// refuse a slot it has served before, as it may while it starts.
const (
	firstBackoff  = 20 * time.Millisecond
	maxBackoff    = 2 * time.Second
	refusalWindow = 5 * time.Second
)

// MaxConnections bounds the slots of a session.
const MaxConnections = 64

// SessionOptions are the options of a Session.
type SessionOptions struct {
	Conn Options
	// Connections is the number of slots. A server that does not say
	// FlagCanMultiConn gets one.
	Connections int
	// Attachment: the export is that of an attachment, and every connection asks
	// for EXPORT.SLOT.INCARNATION. Otherwise every connection asks for EXPORT.
	// Then the server fences nothing, and only a single connection is safe
	// against writes of a dead connection that land late; see invariant 4.
	Attachment bool
	// DeadTimeout is how long a request waits for a dead slot to come back
	// before it fails with block.Unavailable.
	DeadTimeout time.Duration
	// OthersAfter is how long after the first slot the others are connected.
	OthersAfter time.Duration
	Log         *zap.Logger
}

// DefaultSessionOptions are what a worker uses.
func DefaultSessionOptions() SessionOptions {
	return SessionOptions{Conn: DefaultOptions(), Connections: 4, DeadTimeout: 5 * time.Minute, Log: zap.NewNop()}
}

func (o *SessionOptions) check() error {
	var errs []error
	if o.Connections < 1 || o.Connections > MaxConnections {
		errs = append(errs, block.Errorf(block.Invalid, "connections is %d, want 1 to %d", o.Connections, MaxConnections))
	}
	if o.DeadTimeout <= 0 {
		errs = append(errs, block.Errorf(block.Invalid, "dead timeout is %v, want more than 0", o.DeadTimeout))
	}
	if o.Conn.DialTimeout <= 0 {
		errs = append(errs, block.Errorf(block.Invalid, "dial timeout is %v, want more than 0", o.Conn.DialTimeout))
	}
	if o.Log == nil {
		errs = append(errs, block.Errorf(block.Invalid, "session has no log"))
	}
	return block.Wrap(block.Invalid, joinErrors(errs), "open NBD session")
}

// Session is one export over several connections that are replaced when they
// die. Methods may be called from any number of goroutines. A request whose
// connection dies is carried out again once the server has accepted the
// successor of that connection; the caller sees a pause. Its durability is
// that of Conn, provided the server keeps what it answered over its restart.
type Session struct {
	addrs  []Addr
	export string
	opts   SessionOptions
	info   Info

	slots []*slot
	turn  atomic.Uint32

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when a slot changes
	remade  uint64        // connections that were lost and made anew
	fatal   error         // the server will never take the session back
	lost    atomic.Bool   // fatal is set
}

// OpenSession connects the first slot, to any of addrs, and starts the others.
func OpenSession(ctx context.Context, addrs []string, export string, opts SessionOptions) (*Session, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		return nil, block.Errorf(block.Invalid, "open NBD session for export %q: no address", export)
	}
	s := &Session{export: export, opts: opts, changed: make(chan struct{})}
	for _, a := range addrs {
		addr, err := ParseAddr(a)
		if err != nil {
			return nil, err
		}
		s.addrs = append(s.addrs, addr)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	first := &slot{session: s}
	conn, err := first.dialAny(ctx)
	if err != nil {
		s.cancel()
		return nil, err
	}
	s.info = conn.Info()
	n := opts.Connections
	if !s.info.Flags.Has(FlagCanMultiConn) {
		n = 1
	}
	for i := range n {
		sl := &slot{session: s, number: i}
		if i == 0 {
			sl = first
			sl.conn, sl.accepted = conn, true
		}
		s.slots = append(s.slots, sl)
	}
	for _, sl := range s.slots {
		sl.lastAlive = time.Now()
		s.running.Go(sl.run)
	}
	return s, nil
}

// Info returns what the server said of the export when the session was opened.
func (s *Session) Info() Info { return s.info }

// Connected returns how many slots are connected, and how many there are.
func (s *Session) Connected() (live, slots int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sl := range s.slots {
		if sl.conn != nil {
			live++
		}
	}
	return live, len(s.slots)
}

// Lost reports whether the server has refused the session for good: every request
// fails from then on.
func (s *Session) Lost() bool { return s.lost.Load() }

// Reconnected returns how many connections of slots were lost and made anew.
func (s *Session) Reconnected() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remade
}

// Close disconnects every slot. Requests in flight fail.
func (s *Session) Close() error {
	s.cancel()
	s.running.Wait()
	return nil
}

// ReadAt fills p from the export.
func (s *Session) ReadAt(ctx context.Context, p []byte, offBytes uint64) error {
	return s.do(ctx, func(c *Conn) error { return c.ReadAt(ctx, p, offBytes) })
}

// WriteAt writes p; with fua its data is durable when it returns.
func (s *Session) WriteAt(ctx context.Context, p []byte, offBytes uint64, fua bool) error {
	return s.do(ctx, func(c *Conn) error { return c.WriteAt(ctx, p, offBytes, fua) })
}

// Flush makes durable all that has been answered before on any slot.
func (s *Session) Flush(ctx context.Context) error {
	return s.do(ctx, func(c *Conn) error { return c.Flush(ctx) })
}

// Trim discards a range.
func (s *Session) Trim(ctx context.Context, offBytes, lengthBytes uint64, fua bool) error {
	return s.do(ctx, func(c *Conn) error { return c.Trim(ctx, offBytes, lengthBytes, fua) })
}

// WriteZeroes makes a range read as zeroes; with noHole it stays allocated.
func (s *Session) WriteZeroes(ctx context.Context, offBytes, lengthBytes uint64, noHole, fua bool) error {
	return s.do(ctx, func(c *Conn) error { return c.WriteZeroes(ctx, offBytes, lengthBytes, noHole, fua) })
}

// BlockStatus returns the allocation of a range, as [Conn.BlockStatus].
func (s *Session) BlockStatus(ctx context.Context, offBytes, lengthBytes uint64) (extents []Extent, err error) {
	err = s.do(ctx, func(c *Conn) error {
		var err error
		extents, err = c.BlockStatus(ctx, offBytes, lengthBytes)
		return err
	})
	return extents, err
}

// do carries out one request on some slot, again after each loss of its
// connection. The slot's next connection is the proof that the server has
// fenced the lost one: only then may the request go out anew, on any slot.
func (s *Session) do(ctx context.Context, request func(*Conn) error) error {
	for {
		sl, c, err := s.pick(ctx)
		if err != nil {
			return err
		}
		sl.inFlight.Add(1)
		err = request(c)
		sl.inFlight.Add(-1)
		if err == nil || ctx.Err() != nil || !lost(c, err) {
			return err
		}
		if err := s.awaitSuccessor(ctx, sl, c); err != nil {
			return err
		}
	}
}

// lost reports whether err says nothing about the request but that its
// connection is gone. A server that refuses for shutting down is going.
func lost(c *Conn, err error) bool {
	var answer *serverError
	if errors.As(err, &answer) {
		if answer.errno != errnoShutdown {
			return false
		}
		c.fail(err)
		return true
	}
	return c.Err() != nil && block.Is(err, block.Unavailable)
}

// pick returns a live slot with little in flight, waiting for one if need be.
func (s *Session) pick(ctx context.Context) (*slot, *Conn, error) {
	var timer *time.Timer
	for {
		s.mu.Lock()
		best, c := s.least()
		changed, fatal, died := s.changed, s.fatal, s.diedLast()
		s.mu.Unlock()
		switch {
		case fatal != nil:
			return nil, nil, fatal
		case best != nil:
			return best, c, nil
		}
		if timer == nil {
			timer = time.NewTimer(time.Until(died.Add(s.opts.DeadTimeout)))
			defer timer.Stop()
		}
		if err := s.wait(ctx, changed, timer); err != nil {
			return nil, nil, err
		}
	}
}

// least returns the live slot with the fewest requests in flight, taking turns
// among equals; the caller holds s.mu.
func (s *Session) least() (best *slot, c *Conn) {
	start := int(s.turn.Add(1))
	for i := range s.slots {
		sl := s.slots[(start+i)%len(s.slots)]
		if sl.conn != nil && (best == nil || sl.inFlight.Load() < best.inFlight.Load()) {
			best, c = sl, sl.conn
		}
	}
	return best, c
}

// diedLast returns when the last slot died; the caller holds s.mu.
func (s *Session) diedLast() (t time.Time) {
	for _, sl := range s.slots {
		if sl.lastAlive.After(t) {
			t = sl.lastAlive
		}
	}
	return t
}

// awaitSuccessor waits until sl has another connection than c.
func (s *Session) awaitSuccessor(ctx context.Context, sl *slot, c *Conn) error {
	timer := time.NewTimer(s.opts.DeadTimeout)
	defer timer.Stop()
	for {
		s.mu.Lock()
		done := sl.conn != nil && sl.conn != c
		changed, fatal := s.changed, s.fatal
		s.mu.Unlock()
		switch {
		case done:
			return nil
		case fatal != nil:
			return fatal
		}
		if err := s.wait(ctx, changed, timer); err != nil {
			return err
		}
	}
}

// AwaitSlots waits until the server has accepted a connection of every slot.
// By then it has fenced all connections that a former session of the same
// export had, if that had no more slots: nothing of it lands any more.
func (s *Session) AwaitSlots(ctx context.Context) error {
	timer := time.NewTimer(s.opts.DeadTimeout)
	defer timer.Stop()
	for {
		s.mu.Lock()
		accepted := 0
		for _, sl := range s.slots {
			if sl.accepted {
				accepted++
			}
		}
		changed, fatal := s.changed, s.fatal
		s.mu.Unlock()
		switch {
		case fatal != nil:
			return fatal
		case accepted == len(s.slots):
			return nil
		}
		if err := s.wait(ctx, changed, timer); err != nil {
			return err
		}
	}
}

// wait waits for changed, and fails when the timer, the caller or the session ends.
func (s *Session) wait(ctx context.Context, changed <-chan struct{}, timer *time.Timer) error {
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return block.Errorf(block.Unavailable, "wait for NBD server %s: %w", s.addrs[0], context.Cause(ctx))
	case <-s.ctx.Done():
		return block.Errorf(block.Unavailable, "NBD session for export %q is closed", s.export)
	case <-timer.C:
		return block.Errorf(block.Unavailable, "NBD server %s has been away for %v", s.addrs[0], s.opts.DeadTimeout)
	}
}

// set changes the connection of a slot and wakes who waits.
func (s *Session) set(sl *slot, c *Conn) {
	s.mu.Lock()
	sl.conn = c
	if c != nil && sl.accepted {
		s.remade++
	}
	sl.accepted = sl.accepted || c != nil
	sl.lastAlive = time.Now()
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
}

// giveUp ends the session for good.
func (s *Session) giveUp(err error) {
	s.mu.Lock()
	if s.fatal == nil {
		s.fatal = err
		s.lost.Store(true)
		close(s.changed)
		s.changed = make(chan struct{})
	}
	s.mu.Unlock()
}
