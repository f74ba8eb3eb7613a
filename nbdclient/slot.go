package nbdclient

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
)

// slot is the place of one connection in a session. Its goroutine alone dials;
// conn, accepted and lastAlive are guarded by Session.mu.
type slot struct {
	session   *Session
	number    int
	names     SlotName
	conn      *Conn
	accepted  bool // the server has accepted a connection of it
	lastAlive time.Time
	inFlight  atomic.Int64
}

// SlotName makes the names that the connections of one slot ask for. The
// incarnation is the wall clock in nanoseconds, or one more than the last
// where the clock has not moved on, so that it also grows over a restart of
// the program. Not for concurrent use.
type SlotName struct{ last uint64 }

// Next returns the export name of the slot's next connection.
func (n *SlotName) Next(export string, slot int) string {
	n.last = max(n.last+1, uint64(time.Now().UnixNano()))
	return fmt.Sprintf("%s.%d.%d", export, slot, n.last)
}

// run keeps the slot connected until the session ends.
func (sl *slot) run() {
	s := sl.session
	log := s.opts.Log.With(zap.String("export", s.export), zap.Int("slot", sl.number))
	conn := sl.conn
	if conn == nil && s.opts.OthersAfter > 0 {
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(s.opts.OthersAfter):
		}
	}
	for {
		if conn == nil {
			if conn = sl.redial(log); conn == nil {
				return
			}
			s.set(sl, conn)
		}
		select {
		case <-s.ctx.Done():
			s.set(sl, nil)
			_ = conn.Disconnect() // the session is over either way
			return
		case <-conn.Dead():
		}
		log.Warn("connection lost", zap.Error(conn.Err()))
		s.set(sl, nil)
		_ = conn.Close() // waits for its receiver
		conn = nil
	}
}

// redial connects until it works; nil means that the session is over.
func (sl *slot) redial(log *zap.Logger) *Conn {
	s := sl.session
	since := time.Now()
	var refused time.Time // since when the server has answered with a refusal
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		conn, err := sl.dialAny(s.ctx)
		if err == nil {
			err = sl.sameExport(conn)
		}
		switch {
		case err == nil:
			log.Info("connected", zap.Duration("after", time.Since(since)))
			return conn
		case s.ctx.Err() != nil:
			return nil
		case !refusal(err):
			refused = time.Time{}
		case refused.IsZero():
			refused = time.Now()
		case time.Since(refused) > refusalWindow:
			log.Error("the server refuses the connection for good", zap.Error(err))
			s.giveUp(block.Errorf(block.Fenced, "NBD session for export %q is over: %w", s.export, err))
			return nil
		}
		log.Debug("cannot connect", zap.Error(err))
		select {
		case <-s.ctx.Done():
			return nil
		case <-time.After(backoff/2 + rand.N(backoff)):
		}
	}
}

// refusal reports whether the server answered and will not have this client.
func refusal(err error) bool {
	switch block.KindOf(err) {
	case block.NotFound, block.Permission, block.Invalid, block.Unsupported:
		return true
	}
	return false
}

// sameExport closes conn when it is not to the export that the session opened.
func (sl *slot) sameExport(conn *Conn) error {
	want, got := sl.session.info, conn.Info()
	if got.SizeBytes >= want.SizeBytes && got.Flags.Has(want.Flags&^FlagRotational) {
		return nil
	}
	_ = conn.Close()
	return block.Errorf(block.Invalid, "export %q has now %d bytes and flags %#x, want %d and %#x", sl.session.export, got.SizeBytes, got.Flags, want.SizeBytes, want.Flags)
}

// dialAny connects to the first address that answers.
func (sl *slot) dialAny(ctx context.Context) (*Conn, error) {
	s := sl.session
	var errs []error
	for _, a := range s.addrs {
		name := s.export
		if s.opts.Attachment {
			name = sl.names.Next(s.export, sl.number)
		}
		conn, err := Dial(ctx, a.String(), name, s.opts.Conn)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if !block.Is(err, block.Unavailable) {
			return nil, err
		}
	}
	return nil, joinErrors(errs)
}

// joinErrors makes one line of several errors, of the kind of the first; none
// is nil.
func joinErrors(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	err := errs[0]
	for _, e := range errs[1:] {
		err = block.Errorf(block.KindOf(err), "%w; %w", err, e)
	}
	return err
}
