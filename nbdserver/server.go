package nbdserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/slackerd/slacker/block"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
)

// Server serves the exports of a backend. Make one with [New], give it
// listeners with Serve, end it with Shutdown or Close.
type Server struct {
	backend Backend
	tls     *tls.Config
	tlsMode TLSMode
	log     *zap.Logger
	limits  Limits
	metrics Metrics
	memory  *semaphore.Weighted // TotalBytes
	lists   *semaphore.Weighted // listsAtOnce
	start   time.Time
	// What strangers can cause.
	refusals, handshakes rarely

	ctx    context.Context // of the devices' calls; canceled by Close
	cancel context.CancelFunc
	// stopping is closed when Shutdown or Close begins.
	stopping chan struct{}

	mu    sync.Mutex
	conns map[*conn]struct{}
	// Counts that are limited: connections without an export, and by address.
	negotiating int
	remotes     map[string]int
	lastID      uint64
	ended       bool
	handed      []Handed       // by Handover
	wg          sync.WaitGroup // connections
}

// errStopped is what Serve's loop ends with when the server stops.
var errStopped = block.Errorf(block.Unavailable, "nbd server is shutting down")

// New returns a server of what backend offers. It checks the limits.
func New(backend Backend, o Options) (*Server, error) {
	if err := o.Limits.Check(); err != nil {
		return nil, err
	}
	if o.TLSMode != TLSOff && o.TLS == nil {
		return nil, block.Errorf(block.Invalid, "nbd server: TLS mode %d without a TLS configuration", o.TLSMode)
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	s := &Server{
		backend:  backend,
		log:      o.Logger,
		limits:   o.Limits,
		metrics:  o.Metrics,
		memory:   semaphore.NewWeighted(int64(o.Limits.TotalBytes)),
		lists:    semaphore.NewWeighted(listsAtOnce),
		start:    time.Now(),
		stopping: make(chan struct{}),
		conns:    map[*conn]struct{}{},
		remotes:  map[string]int{},
		tls:      o.TLS,
		tlsMode:  o.TLSMode,
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Serve accepts connections until ctx is done or the server stops, closes the
// listener and returns nil; its connections live on. It may be called for
// several listeners at once. An error means that the listener failed.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		select {
		case <-ctx.Done():
		case <-s.stopping:
		}
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			s.log.Warn("close of an nbd listener", zap.Stringer("listener", l.Addr()), zap.Error(err))
		}
	}()
	err := s.accept(ctx, l)
	cancel()
	<-closed
	return err
}

// Accepts that fail for want of resources, such as file descriptors, are tried
// again after a pause that doubles from the first to the longest.
const (
	firstAcceptPause   = 5 * time.Millisecond
	longestAcceptPause = 500 * time.Millisecond
)

func (s *Server) accept(ctx context.Context, l net.Listener) error {
	failed, pause := 0, firstAcceptPause
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			if failed > 0 {
				s.log.Info("nbd connections are accepted again", zap.Stringer("listener", l.Addr()), zap.Int("failed", failed))
				failed, pause = 0, firstAcceptPause
			}
			s.take(nc, nil)
		case ctx.Err() != nil || s.isStopping():
			return nil
		case errors.Is(err, net.ErrClosed):
			return block.Errorf(block.IO, "accept on %s: %w", l.Addr(), err)
		default:
			if failed++; failed == 1 { // the others would be many and alike
				s.log.Warn("nbd connections cannot be accepted; trying on", zap.Stringer("listener", l.Addr()), zap.Error(err))
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			case <-s.stopping:
			}
			pause = min(2*pause, longestAcceptPause)
		}
	}
}

func (s *Server) isStopping() bool {
	select {
	case <-s.stopping:
		return true
	default:
		return false
	}
}

// take starts a connection, or goes on with one that another server has handed
// over, or closes it when there are too many.
func (s *Server) take(nc net.Conn, from *Handed) {
	remote := remoteOf(nc)
	s.mu.Lock()
	reason := s.refusal(remote)
	var c *conn
	if reason == "" {
		s.lastID++
		c = newConn(s, nc, s.lastID)
		c.adopted = from != nil
		s.conns[c] = struct{}{}
		s.negotiating++
		s.remotes[remote]++
		s.wg.Add(1)
	}
	s.mu.Unlock()
	if reason != "" {
		if s.metrics != nil {
			s.metrics.ConnectionRefused()
		}
		s.refusals.log(s.log, zap.WarnLevel, "refuse an nbd connection", zap.String("reason", reason), zap.Stringer("remote", nc.RemoteAddr()))
		_ = nc.Close() // nothing was said on it
		return
	}
	go func() {
		defer s.wg.Done()
		c.serve(from)
		s.negotiated(c)
		s.mu.Lock()
		delete(s.conns, c)
		if s.remotes[remote]--; s.remotes[remote] == 0 {
			delete(s.remotes, remote)
		}
		s.mu.Unlock()
	}()
}

// remoteOf returns what connections are counted by: an IP address, or nothing.
func remoteOf(nc net.Conn) string {
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		return a.IP.String()
	}
	return ""
}

// refusal says why no connection from remote is taken now, or nothing. Called
// with s.mu held.
func (s *Server) refusal(remote string) string {
	switch {
	case s.ended:
		return "the server is shutting down"
	case len(s.conns) >= s.limits.Connections:
		return fmt.Sprintf("%d connections are open, the limit", len(s.conns))
	case s.negotiating >= s.limits.Negotiations:
		return fmt.Sprintf("%d connections are negotiating, the limit", s.negotiating)
	case remote != "" && s.remotes[remote] >= s.limits.RemoteConnections:
		return fmt.Sprintf("%d connections from this address are open, the limit", s.remotes[remote])
	}
	return ""
}

// negotiated takes a connection off the count of those that negotiate, once.
func (s *Server) negotiated(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.counted {
		c.counted = true
		s.negotiating--
	}
}

// each calls f for every connection there is.
func (s *Server) each(f func(*conn)) {
	s.mu.Lock()
	cs := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		cs = append(cs, c)
	}
	s.mu.Unlock()
	for _, c := range cs {
		f(c)
	}
}

// stop makes every Serve return and no connection begin.
func (s *Server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.ended = true
		close(s.stopping)
	}
}

// Shutdown stops listening, lets every connection finish the commands it has
// received, and closes it. It returns nil when all are closed. When ctx is done
// first it closes the rest as Close does and returns ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	s.each((*conn).drain)
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		s.cancel()
		return nil
	case <-ctx.Done():
		s.Close()
		<-done
		return ctx.Err()
	}
}

// Close closes every connection at once, cancels the calls in flight and waits
// for them to return.
func (s *Server) Close() {
	s.stop()
	s.each(func(c *conn) { c.kill(errStopped) })
	s.cancel()
	s.wg.Wait()
}

// now returns a time for latencies, 0 when nobody measures them.
func (s *Server) now() int64 {
	if s.metrics == nil {
		return 0
	}
	return int64(time.Since(s.start)) | 1
}

func (s *Server) since(began int64) time.Duration { return time.Since(s.start) - time.Duration(began) }
