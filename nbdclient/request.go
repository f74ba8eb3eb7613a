package nbdclient

import (
	"context"
	"net"
	"sync"

	"github.com/pojntfx/go-nbd/pkg/protocol"

	"github.com/slackerd/slacker/block"
)

// call is one request in flight.
type call struct {
	cmd         uint16
	offBytes    uint64
	lengthBytes uint32
	p           []byte // the destination of a read; nil once the caller has left
	extents     []Extent

	filled  uint64 // bytes of a read that have arrived
	err     error  // the first error the server gave
	filling bool   // the receiver is using p; guarded by Conn.mu
	done    chan struct{}
	async   *Request // told instead of done
}

var callPool = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

// Extent is a run of bytes of one allocation state.
type Extent struct {
	LengthBytes uint64
	// Hole: no space is allocated. Zero: reads as zeroes.
	Hole, Zero bool
}

// ReadAt fills p from the export. A read longer than the server takes is split.
func (c *Conn) ReadAt(ctx context.Context, p []byte, offBytes uint64) error {
	return c.split(uint64(len(p)), offBytes, uint64(c.info.MaxPayloadBytes), func(at, n uint64) error {
		return c.do(ctx, protocol.TRANSMISSION_TYPE_REQUEST_READ, 0, offBytes+at, uint32(n), p[at:at+n], nil)
	})
}

// WriteAt writes p; with fua its data is durable when it returns.
func (c *Conn) WriteAt(ctx context.Context, p []byte, offBytes uint64, fua bool) error {
	flags, after := c.fua(fua)
	err := c.split(uint64(len(p)), offBytes, uint64(c.info.MaxPayloadBytes), func(at, n uint64) error {
		return c.do(ctx, protocol.TRANSMISSION_TYPE_REQUEST_WRITE, flags, offBytes+at, uint32(n), p[at:at+n], nil)
	})
	return c.settle(ctx, err, after)
}

// Flush makes durable all that has been answered before, on every connection
// of an export that says FlagCanMultiConn. Where the server has no flush,
// there is nothing to do.
func (c *Conn) Flush(ctx context.Context) error {
	if !c.info.Flags.Has(FlagSendFlush) {
		return nil
	}
	return c.do(ctx, cmdFlush, 0, 0, 0, nil, nil)
}

// Trim discards a range. The range may or may not read as zeroes afterwards;
// slackerd's does.
func (c *Conn) Trim(ctx context.Context, offBytes, lengthBytes uint64, fua bool) error {
	if err := c.need(FlagSendTrim, "trim"); err != nil {
		return err
	}
	return c.noData(ctx, cmdTrim, 0, offBytes, lengthBytes, fua)
}

// WriteZeroes makes a range read as zeroes; with noHole it stays allocated.
func (c *Conn) WriteZeroes(ctx context.Context, offBytes, lengthBytes uint64, noHole, fua bool) error {
	if err := c.need(FlagSendWriteZeroes, "write zeroes"); err != nil {
		return err
	}
	flags := uint16(0)
	if noHole {
		flags = cmdFlagNoHole
	}
	return c.noData(ctx, cmdWriteZeroes, flags, offBytes, lengthBytes, fua)
}

// Cache asks the server to have a range at hand.
func (c *Conn) Cache(ctx context.Context, offBytes, lengthBytes uint64) error {
	if err := c.need(FlagSendCache, "cache"); err != nil {
		return err
	}
	return c.noData(ctx, cmdCache, 0, offBytes, lengthBytes, false)
}

// BlockStatus returns the allocation of a range that begins at offBytes: at
// least one extent, and none beyond offBytes+lengthBytes. It may end earlier.
func (c *Conn) BlockStatus(ctx context.Context, offBytes, lengthBytes uint64) ([]Extent, error) {
	if !c.info.Allocation {
		return nil, block.Errorf(block.Unsupported, "block status: NBD server %s has no context %s", c.addr, contextBaseAllocation)
	}
	var extents []Extent
	n := min(lengthBytes, MaxNoDataBytes)
	if err := c.bounds(offBytes, n); err != nil {
		return nil, err
	}
	err := c.do(ctx, cmdBlockStatus, 0, offBytes, uint32(n), nil, &extents)
	return extents, err
}

func (c *Conn) need(flag Flags, name string) error {
	if c.info.Flags.Has(flag) {
		return nil
	}
	return block.Errorf(block.Unsupported, "%s: NBD server %s does not offer it for this export", name, c.addr)
}

// fua returns the flag for a FUA request, or that a flush must follow it.
func (c *Conn) fua(want bool) (flags uint16, flushAfter bool) {
	switch {
	case !want:
		return 0, false
	case c.info.Flags.Has(FlagSendFUA):
		return cmdFlagFUA, false
	}
	return 0, true
}

func (c *Conn) settle(ctx context.Context, err error, flush bool) error {
	if err != nil || !flush {
		return err
	}
	return c.Flush(ctx)
}

func (c *Conn) noData(ctx context.Context, cmd, flags uint16, offBytes, lengthBytes uint64, fua bool) error {
	fuaFlag, after := c.fua(fua)
	err := c.split(lengthBytes, offBytes, MaxNoDataBytes, func(at, n uint64) error {
		return c.do(ctx, cmd, flags|fuaFlag, offBytes+at, uint32(n), nil, nil)
	})
	return c.settle(ctx, err, after)
}

// split calls part for every piece of at most maxBytes of a range. The range
// is checked first. A zero length is no request.
func (c *Conn) split(lengthBytes, offBytes, maxBytes uint64, part func(at, n uint64) error) error {
	if err := c.bounds(offBytes, lengthBytes); err != nil {
		return err
	}
	for at := uint64(0); at < lengthBytes; {
		n := min(lengthBytes-at, maxBytes)
		if err := part(at, n); err != nil {
			return err
		}
		at += n
	}
	return nil
}

func (c *Conn) bounds(offBytes, lengthBytes uint64) error {
	if offBytes > c.info.SizeBytes || lengthBytes > c.info.SizeBytes-offBytes {
		return block.Errorf(block.Invalid, "range of %d bytes at %d exceeds the export's %d bytes", lengthBytes, offBytes, c.info.SizeBytes)
	}
	return nil
}

// do sends one request and waits for its reply. p is the data of a write or
// the destination of a read.
func (c *Conn) do(ctx context.Context, cmd, flags uint16, offBytes uint64, lengthBytes uint32, p []byte, extents *[]Extent) error {
	k := callPool.Get().(*call)
	*k = call{cmd: cmd, offBytes: offBytes, lengthBytes: lengthBytes, done: k.done}
	if cmd == protocol.TRANSMISSION_TYPE_REQUEST_READ {
		k.p = p
	}
	cookie, err := c.register(k, true)
	if err != nil {
		callPool.Put(k)
		return err
	}
	if err := c.send(ctx, cmd, flags, cookie, offBytes, lengthBytes, p); err != nil {
		if !c.abandon(k) {
			<-k.done
		}
		return err // the receiver may still complete k: it is not reused
	}
	select {
	case <-k.done:
	case <-ctx.Done():
		if c.abandon(k) {
			return block.Errorf(block.Unavailable, "NBD request to %s: %w", c.addr, context.Cause(ctx))
		}
		<-k.done
	}
	err = k.err
	if extents != nil {
		*extents = k.extents
	}
	k.p, k.extents = nil, nil
	callPool.Put(k)
	return err
}

// register gives k a cookie. A caller who does not receive needs the receiver: an
// offer of its turn is withdrawn.
func (c *Conn) register(k *call, waits bool) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	c.next++
	c.pending[c.next] = k
	if waits {
		c.withdraw()
	}
	return c.next, nil
}

// abandon gives up waiting for k. It is refused when the reply is arriving
// just now: then the receiver will finish it.
func (c *Conn) abandon(k *call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.filling {
		return false
	}
	k.p = nil
	return true
}

// send writes one request. A request that has gone out in part kills the
// connection, since nothing could follow it.
func (c *Conn) send(ctx context.Context, cmd, flags uint16, cookie, offBytes uint64, lengthBytes uint32, p []byte) error {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() {
			c.fail(block.Errorf(block.Unavailable, "NBD request to %s: %w", c.addr, context.Cause(ctx)))
		})
		defer stop()
	}
	c.putHeader(cmd, flags, cookie, offBytes, lengthBytes)
	c.held = append(c.held, c.header[:]...)
	if cmd != protocol.TRANSMISSION_TYPE_REQUEST_WRITE {
		p = nil
	}
	if !c.transmit(p) {
		return c.Err()
	}
	return nil
}

// transmit sends what is held back and then p; the caller holds sendMu. When
// that fails the connection is dead.
func (c *Conn) transmit(p []byte) bool {
	var err error
	switch {
	case c.ended:
		err = net.ErrClosed
	case p == nil:
		_, err = c.conn.Write(c.held)
	default:
		err = c.conn.writeTwo(c.held, p)
	}
	c.held = c.held[:0]
	if err != nil {
		c.fail(block.Errorf(block.Unavailable, "NBD connection to %s: send: %w", c.addr, err))
	}
	return err == nil
}
