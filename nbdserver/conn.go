package nbdserver

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slackerd/slacker/access"
	"github.com/slackerd/slacker/block"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
)

// conn is one connection. Its fields without a comment belong to the goroutine
// that runs serve.
type conn struct {
	srv *Server
	// raw is the socket; nc is what is spoken over: the socket, or TLS on it.
	// Goroutines other than the one that runs serve use raw, or nc once the
	// transmission has begun.
	raw net.Conn
	nc  net.Conn
	id  uint64
	// counted: it is counted as negotiating no more. Guarded by srv.mu.
	counted bool
	log     *zap.Logger

	ctx    context.Context // of the device's calls
	cancel context.CancelCauseFunc
	// dead is set by kill: nothing more is executed or answered.
	dead atomic.Bool

	mu        sync.Mutex // of the read deadline and of:
	draining  bool
	transmits bool // the negotiation is over, or its last reply on the way
	moving    bool // it is to be handed over
	adopted   bool // another server has negotiated it
	inPayload bool // of a command; there it cannot be handed over

	identity access.Identity
	dev      Device
	info     Info
	// What was negotiated.
	noZeroes bool
	fixed    bool // the client speaks fixed newstyle
	headers  headers
	metaFor  string        // the export whose contexts are set
	contexts []metaContext // those; the id of each is its place, from 1

	rec Recorder        // nil when nobody measures; set before the first command
	own measuredContext // of the commands that this goroutine runs

	export string // its name, once it is open
	input  []byte // what had arrived before the connection was adopted
	paused bool   // it ended between two commands
	in     input
	batch  *buffer // replies of this goroutine, not sent yet
	// unsettled: the batch answers writes that are not settled yet.
	unsettled bool
	holds     bool // the batch answers a large WRITE, and may wait for one more command
	// answeredWrites: writes were done last, before it waited for the next command.
	// flushNext: that was a FLUSH the last time.
	answeredWrites, flushNext bool

	out     sender
	lend    lending
	mem     budget
	workers workers
	// pipelined is for how many more commands the client is taken to send
	// several at a time.
	pipelined int
}

// Times that are not worth a limit of their own.
const (
	// drainGrace is how long a shutdown waits for the next option of a
	// negotiation, to answer it with ERR_SHUTDOWN.
	drainGrace = time.Second
	// lingerTime is how long a closing connection waits for the client to
	// close: closing a socket with unread data would drop the last replies.
	lingerTime = time.Second
)

func newConn(s *Server, nc net.Conn, id uint64) *conn {
	c := &conn{
		srv: s, raw: nc, nc: nc, id: id, identity: access.Of(nc),
		log: s.log.With(zap.Uint64("conn", id), zap.Stringer("remote", nc.RemoteAddr())),
		mem: budget{own: semaphore.NewWeighted(int64(s.limits.InFlightBytes)), total: s.memory},
	}
	c.ctx, c.cancel = context.WithCancelCause(s.ctx)
	c.out.init(c)
	c.workers.init(c, s.limits.InFlightRequests)
	return c
}

// serve runs the connection from its first byte, or from where another server
// has left it, to its close.
func (c *conn) serve(from *Handed) {
	if m := c.srv.metrics; m != nil {
		m.ConnectionOpened()
		defer m.ConnectionClosed()
	}
	if t, ok := c.raw.(*net.TCPConn); ok {
		if err := t.SetNoDelay(true); err != nil {
			c.log.Debug("set TCP_NODELAY", zap.Error(err))
		}
	}
	begin := c.negotiate
	if from != nil {
		begin = func() (string, error) { return c.resume(from) }
	}
	name, err := begin()
	c.srv.negotiated(c)
	if err == nil {
		c.export = name
		c.log.Info("nbd export opened", zap.String("export", name), zap.Stringer("identity", c.identity), zap.Uint64("size_bytes", c.info.SizeBytes),
			zap.Bool("read_only", c.info.ReadOnly), zap.Stringer("headers", c.headers))
		c.record(name)
		err = c.transmit()
	}
	if killed := context.Cause(c.ctx); c.dead.Load() && killed != nil {
		err = killed
	}
	c.finish(err)
}

// finish closes the device and the socket. No other goroutine of the
// connection is left but those that may call kill or drain.
func (c *conn) finish(err error) {
	if err == nil && !c.handOver() {
		c.linger()
	}
	c.dead.Store(true)
	_ = c.raw.Close() // its failure changes nothing: both sides are done
	c.cancel(errStopped)
	if c.rec != nil {
		c.rec.Closed()
	}
	if c.dev != nil {
		if cerr := c.dev.Close(); cerr != nil {
			c.log.Warn("close of a device", zap.Error(cerr))
		}
	}
	switch {
	case err == nil:
		c.log.Debug("nbd connection closed")
	case c.dev == nil:
		c.log.Debug("nbd negotiation ended", zap.Error(err))
	default:
		c.log.Info("nbd connection broken off", zap.Error(err))
	}
}

// linger says that no more replies follow and waits for the client to close.
func (c *conn) linger() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	if c.raw.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, c.nc) // ends by EOF or the deadline, alike
}

// kill ends the connection without serving or answering anything more. It may
// be called from any goroutine and more than once, and does not wait.
func (c *conn) kill(reason error) {
	if c.dead.Swap(true) {
		return
	}
	c.cancel(reason)
	_ = c.raw.Close()
}

// drain makes the connection end when it has answered what it has received.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	until := time.Unix(1, 0)
	if !c.transmits {
		until = time.Now().Add(drainGrace)
	}
	if err := c.raw.SetReadDeadline(until); err != nil {
		c.log.Debug("set read deadline", zap.Error(err))
	}
}

func (c *conn) isDraining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining
}

// enterTransmission sends the reply that ends the negotiation. The client may
// take the export for open as soon as that has left, so a handover from then on
// takes the connection along. It refuses when the server is shutting down.
func (c *conn) enterTransmission(reply []byte) error {
	c.mu.Lock()
	stopped := c.draining
	c.transmits = !stopped
	c.mu.Unlock()
	if stopped {
		return errStopped
	}
	if err := c.send(reply); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining { // it has set a deadline for reads
		return c.raw.SetWriteDeadline(time.Time{})
	}
	return c.raw.SetDeadline(time.Time{})
}

// readDeadline sets when reads fail, unless a drain has set that already. The
// zero time is never.
func (c *conn) readDeadline(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining {
		return
	}
	if err := c.raw.SetReadDeadline(t); err != nil {
		c.log.Debug("set read deadline", zap.Error(err))
	}
}

func (c *conn) describe() Conn {
	return Conn{ID: c.id, Remote: c.raw.RemoteAddr().String(), Identity: c.identity}
}

// openDevice opens an export for this connection and checks what it says of
// itself.
func (c *conn) openDevice(ctx context.Context, name string, infoOnly bool) (Device, Info, error) {
	disconnect := func(reason error) {
		if reason == nil {
			reason = block.Errorf(block.Fenced, "export %q: the backend disconnected the connection", name)
		}
		c.kill(reason)
	}
	peer := c.describe()
	peer.InfoOnly = infoOnly
	dev, err := c.srv.backend.Open(ctx, name, peer, disconnect)
	if err != nil {
		return nil, Info{}, err
	}
	info := dev.Info()
	if err := info.check(); err != nil {
		c.log.Error("device describes itself wrongly", zap.String("export", name), zap.Error(err))
		return nil, Info{}, errors.Join(err, dev.Close())
	}
	info.MaxRequestBytes = min(info.MaxRequestBytes, uint32(c.srv.limits.RequestBytes)/info.MinBlockBytes*info.MinBlockBytes)
	return dev, info, nil
}

// check holds a device to the contract of Info.
func (i Info) check() error {
	pow2 := func(n uint32) bool { return n != 0 && n&(n-1) == 0 }
	switch {
	case i.SizeBytes > 1<<63-1:
		return block.Errorf(block.Internal, "device size %d bytes: want less than 2^63", i.SizeBytes)
	case !pow2(i.MinBlockBytes) || i.MinBlockBytes > 64<<10:
		return block.Errorf(block.Internal, "minimum block %d bytes: want a power of two to 64 KiB", i.MinBlockBytes)
	case !pow2(i.PreferredBlockBytes) || i.PreferredBlockBytes < max(i.MinBlockBytes, 512):
		return block.Errorf(block.Internal, "preferred block %d bytes: want a power of two from max(%d, 512)", i.PreferredBlockBytes, i.MinBlockBytes)
	case i.MaxRequestBytes < i.PreferredBlockBytes || i.MaxRequestBytes%i.MinBlockBytes != 0:
		return block.Errorf(block.Internal, "maximum request %d bytes: want a multiple of %d from %d", i.MaxRequestBytes, i.MinBlockBytes, i.PreferredBlockBytes)
	case i.SizeBytes%uint64(i.MinBlockBytes) != 0:
		return block.Errorf(block.Internal, "device size %d bytes: want a multiple of the minimum block %d", i.SizeBytes, i.MinBlockBytes)
	}
	return nil
}
