package nbdserver

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/slackerd/slacker/block"
	"golang.org/x/sys/unix"
)

const (
	// bufferedPayloadBytes is the longest payload that is read through the read
	// buffer; longer ones go straight to a buffer of their own.
	bufferedPayloadBytes = 64 << 10
	// inputBytes is the read buffer of a connection: two such commands fit.
	inputBytes = 2*bufferedPayloadBytes + 4<<10
	// The answers to two WRITEs of that many bytes go out at once, when the second
	// is there already: to wake the client costs nearly half of what it costs to write
	// 64 KiB. Shorter ones come several at a time anyway; longer ones fill the
	// socket, and a client that waits for an answer leaves it empty.
	minHeldBytes = 32 << 10
	maxHeldBytes = bufferedPayloadBytes
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
	// long: a long payload was the last, so another may follow, which should not
	// come by way of the buffer.
	long bool

	raw  syscall.RawConn // for readNow; nil when nc has none
	now  func(fd uintptr) bool
	into []byte // of now
	got  int
}

// readFrom makes the input that of a connection of which some has arrived.
func (in *input) readFrom(nc net.Conn, arrived []byte) {
	*in = input{nc: nc, buf: make([]byte, inputBytes)}
	in.w = copy(in.buf, arrived)
	if s, ok := nc.(syscall.Conn); ok {
		in.raw, _ = s.SyscallConn() // an error is nil
	}
	in.now = func(fd uintptr) bool {
		in.got, _ = unix.Read(int(fd), in.into) // the read that waits meets an error again
		return true
	}
}

// readNow reads what is there without waiting, and reports whether that was
// something.
func (in *input) readNow(p []byte) bool {
	in.into, in.got = p, 0
	if in.raw == nil || in.raw.Read(in.now) != nil || in.got <= 0 {
		return false
	}
	in.w += in.got
	return true
}

// space is where to read to in order to have n bytes buffered.
func (in *input) space(n int) []byte {
	if in.long {
		return in.buf[in.w : in.r+n]
	}
	return in.buf[in.w:]
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
		if c.holds && c.in.readNow(c.in.space(n)) {
			continue
		}
		c.flush()
		got, err := c.in.nc.Read(c.in.space(n))
		c.in.w += got
		if err != nil && c.in.buffered() < n {
			return c.readError(err)
		}
	}
	return nil
}

// fillHeader waits for the next command, without a limit of time. When writes were
// answered last, and a FLUSH came next the last time they were, the device begins
// with it once the answer is on its way.
func (c *conn) fillHeader() error {
	n := c.headers.requestBytes()
	if c.in.buffered() >= n {
		return nil
	}
	c.answeredWrites = c.unsettled
	if c.answeredWrites && c.flushNext {
		c.flush()
		c.dev.StartFlush()
	}
	return c.fill(n)
}

// learn sees what command follows on answered writes.
func (c *conn) learn(cmd Command) {
	if c.answeredWrites {
		c.answeredWrites, c.flushNext = false, cmd == CmdFlush
	}
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
	c.in.long = false
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
