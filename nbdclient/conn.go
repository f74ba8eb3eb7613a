package nbdclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"

	"github.com/slackerd/slacker/block"
)

// Options of a connection.
type Options struct {
	// DialTimeout bounds connecting and the handshake together.
	DialTimeout time.Duration
	// StallTimeout ends a connection on which requests wait and nothing has
	// arrived for so long.
	StallTimeout time.Duration
	// AckTimeout ends a TCP connection whose peer has acknowledged nothing of what was
	// sent, or had no room for it, for so long; 0 leaves that to the kernel's
	// repetitions, which grow rarer. A server that is slow acknowledges.
	AckTimeout time.Duration
	// TLS, when set, gives the configuration of each TCP connection, which then
	// is never used without TLS. Unix sockets stay without.
	TLS func() (*tls.Config, error)
}

// DefaultOptions are what a worker uses.
func DefaultOptions() Options {
	return Options{DialTimeout: 10 * time.Second, StallTimeout: 30 * time.Second}
}

const readBufferBytes = 64 << 10

// Conn is one connection to one export. All methods may be called from any
// number of goroutines. Requests that lose the connection fail with
// block.Unavailable; they may or may not have been carried out.
type Conn struct {
	conn stream
	info Info
	addr Addr

	sendMu sync.Mutex // held while one request goes out
	header [requestHeaderBytes]byte
	held   []byte // requests that are to be sent with the next
	ended  bool   // nothing may use the stream any more

	mu      sync.Mutex
	pending map[uint64]*call
	next    uint64
	err     error         // why the connection is dead
	dead    chan struct{} // closed once err is set
	done    chan struct{} // closed once the receiver has ended

	turn     turn          // who receives
	received atomic.Uint64 // grows with every reply
	closing  sync.Once
}

// Dial connects to the server at addr (tcp://HOST:PORT or unix:///PATH) and
// opens export.
func Dial(ctx context.Context, addr, export string, opts Options) (*Conn, error) {
	a, err := ParseAddr(addr)
	if err != nil {
		return nil, err
	}
	nc, info, err := dialHandshake(ctx, a, export, opts, handshakeStructured)
	if err != nil {
		return nil, err
	}
	return NewConn(nc, a, info, opts.StallTimeout), nil
}

// NewConn starts a connection whose negotiation ended with info, over which nothing
// has been sent since. It takes over nc. A stall of 0 is none.
func NewConn(nc net.Conn, addr Addr, info Info, stall time.Duration) *Conn {
	c := &Conn{conn: streamOf(nc), info: info, addr: addr, pending: map[uint64]*call{}, dead: make(chan struct{}), done: make(chan struct{}), turn: newTurn()}
	go c.receive(bufio.NewReaderSize(c.conn, readBufferBytes))
	if stall > 0 {
		go c.watch(stall)
	}
	return c
}

// DialKernel connects to the server at addr and opens export with simple
// replies, so that the returned socket can be handed to the kernel. With TLS, which
// the kernel does not speak, it is none.
func DialKernel(ctx context.Context, addr Addr, export string, opts Options) (net.Conn, Info, error) {
	return dialHandshake(ctx, addr, export, opts, Handshake)
}

// List returns the exports that the server at addr shows.
func List(ctx context.Context, addr string, opts Options) ([]Export, error) {
	a, err := ParseAddr(addr)
	if err != nil {
		return nil, err
	}
	var exports []Export
	list := func(conn net.Conn, _ string) (Info, error) {
		n := negotiator{conn: conn}
		if err := n.hello(); err != nil {
			return Info{}, err
		}
		var err error
		if exports, err = n.list(); err != nil {
			return Info{}, err
		}
		return Info{}, n.send(protocol.NEGOTIATION_ID_OPTION_ABORT, nil)
	}
	nc, _, err := dialHandshake(ctx, a, "", opts, list)
	if err != nil {
		return nil, err
	}
	return exports, block.Wrap(block.Unavailable, nc.Close(), "list exports of "+addr)
}

// dialHandshake connects and runs the handshake, both within timeout and ctx.
func dialHandshake(ctx context.Context, a Addr, export string, opts Options, shake func(net.Conn, string) (Info, error)) (net.Conn, Info, error) {
	if len(export) > MaxExportNameBytes {
		return nil, Info{}, block.Errorf(block.Invalid, "export name of %d bytes, want at most %d", len(export), MaxExportNameBytes)
	}
	ctx, cancel := context.WithTimeout(ctx, opts.DialTimeout)
	defer cancel()
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4}}
	if opts.AckTimeout > 0 && a.Network == "tcp" {
		d.Control = ackTimeout(opts.AckTimeout)
	}
	conn, err := d.DialContext(ctx, a.Network, a.Address)
	if err != nil {
		return nil, Info{}, block.Errorf(block.Unavailable, "connect to NBD server %s: %w", a, err)
	}
	socket := conn // TLS puts another in the place of conn
	stop := context.AfterFunc(ctx, func() { _ = socket.SetDeadline(time.Unix(1, 0)) })
	var info Info
	if opts.TLS != nil && a.Network == "tcp" {
		conn, err = startTLS(ctx, socket, a, opts.TLS)
	}
	if err == nil {
		info, err = shake(conn, export)
	}
	if !stop() && err == nil {
		err = block.Errorf(block.Unavailable, "NBD handshake with %s for export %q: %w", a, export, context.Cause(ctx))
	}
	if err != nil {
		_ = socket.Close()
		return nil, Info{}, err
	}
	return conn, info, nil
}

// Info returns what the server said of the export.
func (c *Conn) Info() Info { return c.info }

// Dead is closed when the connection is no longer usable; Err then says why.
func (c *Conn) Dead() <-chan struct{} { return c.dead }

// Err returns why the connection is dead, or nil.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection at once. Requests in flight fail.
func (c *Conn) Close() error {
	c.fail(block.Errorf(block.Unavailable, "NBD connection to %s is closed", c.addr))
	<-c.done
	return nil
}

// Disconnect tells the server that the client is done, then closes. Requests
// in flight fail, though the server finishes them.
func (c *Conn) Disconnect() error {
	c.sendMu.Lock()
	var err error
	if !c.ended {
		_ = c.conn.SetWriteDeadline(time.Now().Add(time.Second))
		c.putHeader(protocol.TRANSMISSION_TYPE_REQUEST_DISC, 0, 0, 0, 0)
		_, err = c.conn.Write(append(c.held, c.header[:]...))
	}
	c.sendMu.Unlock()
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	return block.Wrap(block.Unavailable, err, "disconnect from NBD server "+c.addr.String())
}

// fail marks the connection dead, for the first reason given, and fails what
// is in flight. The buffers of calls that the receiver is filling stay its own
// until it has ended.
func (c *Conn) fail(reason error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = reason
		close(c.dead)
	}
	c.mu.Unlock()
	c.closing.Do(func() { _ = c.conn.Close() }) // wakes the receiver, which then completes every call
}

// watch ends the connection when requests wait and nothing arrives.
func (c *Conn) watch(stall time.Duration) {
	tick := time.NewTicker(max(stall/4, time.Millisecond))
	defer tick.Stop()
	var last uint64
	since := time.Now()
	for {
		select {
		case <-c.dead:
			return
		case now := <-tick.C:
			c.mu.Lock()
			waiting := len(c.pending) > 0
			c.mu.Unlock()
			if got := c.received.Load(); got != last || !waiting {
				last, since = got, now
			} else if now.Sub(since) >= stall {
				c.fail(block.Errorf(block.Unavailable, "NBD server %s has not answered for %v", c.addr, stall))
				return
			}
		}
	}
}

// putHeader fills c.header; the caller holds sendMu.
func (c *Conn) putHeader(typ, flags uint16, cookie, offBytes uint64, lengthBytes uint32) {
	h := &c.header
	binary.BigEndian.PutUint32(h[0:], protocol.TRANSMISSION_MAGIC_REQUEST)
	binary.BigEndian.PutUint16(h[4:], flags)
	binary.BigEndian.PutUint16(h[6:], typ)
	binary.BigEndian.PutUint64(h[8:], cookie)
	binary.BigEndian.PutUint64(h[16:], offBytes)
	binary.BigEndian.PutUint32(h[24:], lengthBytes)
}
