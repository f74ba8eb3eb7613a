package nbdserver

import (
	"errors"
	"io"
	"net"
	"os"

	"github.com/slackerd/slacker/block"
)

const (
	// inputBytes is the read buffer of a connection.
	inputBytes = 128 << 10
	// bufferedPayloadBytes is the longest payload that is read through the read
	// buffer; longer ones go straight to a buffer of their own.
	bufferedPayloadBytes = 64 << 10
	// maxDrainBytes bounds the payload of a refused WRITE that is read to stay
	// in step; beyond it the connection closes. With extended headers it is
	// block.MaxRequestBytes.
	maxDrainBytes = 64 << 20
)

// errEnd is the end of the commands at a place where it may be: the server
// shuts down.
var errEnd = errors.New("end of commands")

// input is the read buffer: buf[r:w] has arrived and is not used.
type input struct {
	nc   net.Conn
	buf  []byte
	r, w int
}

func (in *input) buffered() int { return in.w - in.r }

// take returns the next n bytes, which are buffered, valid until the next read.
func (in *input) take(n int) []byte {
	b := in.buf[in.r : in.r+n : in.r+n]
	in.r += n
	return b
}

// makeRoom makes n bytes from r on fit in the buffer.
func (in *input) makeRoom(n int) {
	switch {
	case in.r == in.w:
		in.r, in.w = 0, 0
	case len(in.buf)-in.r < n:
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
}

// fill waits until n bytes are buffered. What is ready to be sent goes out
// before it waits.
func (c *conn) fill(n int) error {
	for c.in.buffered() < n {
		c.in.makeRoom(n)
		c.flush()
		got, err := c.in.nc.Read(c.in.buf[c.in.w:])
		c.in.w += got
		if err != nil && c.in.buffered() < n {
			return c.readError(err)
		}
	}
	return nil
}

// fillHeader waits for the next command, without a limit of time.
func (c *conn) fillHeader() error {
	n := c.headers.requestBytes()
	if c.in.buffered() >= n {
		return nil
	}
	return c.fill(n)
}

// readError says what a failed read means.
func (c *conn) readError(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && c.mayEnd():
		return errEnd
	case errors.Is(err, os.ErrDeadlineExceeded):
		return block.Errorf(block.IO, "client sent no payload for %s", c.srv.limits.Stall)
	case errors.Is(err, io.EOF):
		return block.Errorf(block.IO, "client closed the connection without NBD_CMD_DISC")
	}
	return block.Errorf(block.IO, "read from the client: %w", err)
}

// readPayload gets the payload of a WRITE whose length has been checked. Short
// ones stay in the read buffer, valid until the next read.
func (c *conn) readPayload(r *request) error {
	n := int(r.payloadBytes)
	r.payloadBytes = 0
	if c.in.buffered() >= n {
		r.payload = c.in.take(n)
		return nil
	}
	err := c.awaitPayload(r, n)
	if c.rec != nil {
		r.ready = c.srv.now()
	}
	return err
}

// awaitPayload is readPayload of n bytes that are not all here.
func (c *conn) awaitPayload(r *request, n int) error {
	c.payloadBegins()
	defer c.payloadEnds()
	if n <= bufferedPayloadBytes {
		if err := c.fill(n); err != nil {
			return err
		}
		r.payload = c.in.take(n)
		return nil
	}
	b, err := c.newBuffer(n)
	if err != nil {
		return err
	}
	r.buf, r.payload = b, b.data(n)
	have := copy(r.payload, c.in.take(c.in.buffered()))
	c.flush()
	if _, err := io.ReadFull(c.in.nc, r.payload[have:]); err != nil {
		r.release()
		return c.readError(err)
	}
	return nil
}

// dropPayload reads the payload of a refused command and forgets it.
func (c *conn) dropPayload(nBytes uint64) error {
	limit := uint64(maxDrainBytes)
	if c.headers == extended {
		limit = block.MaxRequestBytes // the protocol asks for the close
	}
	if nBytes > limit {
		return block.Errorf(block.Invalid, "client announced a payload of %d bytes: want at most %d", nBytes, c.info.MaxRequestBytes)
	}
	left := int(nBytes)
	if c.in.buffered() < left {
		c.payloadBegins()
		defer c.payloadEnds()
	}
	for left > 0 {
		if c.in.buffered() == 0 {
			if err := c.fill(1); err != nil {
				return err
			}
		}
		left -= len(c.in.take(min(left, c.in.buffered())))
	}
	return nil
}

// newBuffer returns a buffer within the connection's budget. What is ready to
// be sent goes out before it waits for one.
func (c *conn) newBuffer(nBytes int) (*buffer, error) {
	if b := c.mem.tryBuffer(nBytes); b != nil {
		return b, nil
	}
	c.flush()
	return c.mem.buffer(c.ctx, nBytes)
}

func (r *request) release() {
	if r.buf != nil {
		r.buf.release()
	}
	r.buf, r.payload = nil, nil
}
