package nbdclient

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/pojntfx/go-nbd/pkg/protocol"

	"github.com/slackerd/slacker/block"
)

const structuredHeaderBytes = 20

var cmdNames = map[uint16]string{protocol.TRANSMISSION_TYPE_REQUEST_READ: "read", protocol.TRANSMISSION_TYPE_REQUEST_WRITE: "write",
	cmdFlush: "flush", cmdTrim: "trim", cmdCache: "cache", cmdWriteZeroes: "write zeroes", cmdBlockStatus: "block status"}

// chunk is the header of a structured reply chunk.
type chunk struct {
	flags, typ uint16
	cookie     uint64
	length     uint32
}

// receive takes replies until the connection dies, then fails what is left.
func (c *Conn) receive(r *bufio.Reader) {
	defer close(c.done)
	var err error
	for err == nil {
		var passed bool
		if passed, err = c.pass(r); !passed {
			err = c.receiveOne(r)
		}
	}
	c.fail(block.Wrap(block.Unavailable, err, "NBD connection to "+c.addr.String()))
	c.sendMu.Lock() // a sender that waited has been woken
	c.ended = true
	c.conn.release()
	c.sendMu.Unlock()
	c.mu.Lock()
	left, reason := c.pending, c.err
	c.pending = map[uint64]*call{}
	c.mu.Unlock()
	for _, k := range left {
		k.err = reason
		c.tell(k)
	}
}

// receiveOne takes one simple reply or one chunk. Its errors end the
// connection and are all of kind Unavailable.
func (c *Conn) receiveOne(r *bufio.Reader) error {
	var h [structuredHeaderBytes]byte
	if _, err := io.ReadFull(r, h[:simpleReplyBytes]); err != nil {
		return block.Errorf(block.Unavailable, "read a reply: %w", err)
	}
	c.received.Add(1)
	switch magic := binary.BigEndian.Uint32(h[:]); magic {
	case protocol.TRANSMISSION_MAGIC_REPLY:
		return c.simpleReply(r, binary.BigEndian.Uint64(h[8:]), binary.BigEndian.Uint32(h[4:]))
	case structuredReplyMagic:
		if _, err := io.ReadFull(r, h[simpleReplyBytes:]); err != nil {
			return block.Errorf(block.Unavailable, "read a reply: %w", err)
		}
		if !c.info.Structured {
			return violationf("structured reply where none were agreed on")
		}
		return c.chunk(r, chunk{flags: binary.BigEndian.Uint16(h[4:]), typ: binary.BigEndian.Uint16(h[6:]),
			cookie: binary.BigEndian.Uint64(h[8:]), length: binary.BigEndian.Uint32(h[16:])})
	default:
		return violationf("reply magic %#x", magic)
	}
}

func violationf(format string, args ...any) error {
	return block.Errorf(block.Unavailable, "protocol violation of the server: "+format, args...)
}

// simpleReply completes a request by a simple reply.
func (c *Conn) simpleReply(r *bufio.Reader, cookie uint64, errno uint32) error {
	k, err := c.begin(cookie)
	if err != nil {
		return err
	}
	isRead := k.cmd == protocol.TRANSMISSION_TYPE_REQUEST_READ
	switch {
	case errno != 0:
		k.err = k.serverError(c, errno, "")
	case isRead && c.info.Structured:
		return c.broken(k, "simple reply with data where structured ones were agreed on")
	case k.cmd == cmdBlockStatus:
		return c.broken(k, "simple reply without error to a block status request")
	case isRead:
		if err := c.data(r, k, 0, k.lengthBytes); err != nil {
			c.end(k)
			return err
		}
	}
	c.finish(cookie, k)
	return nil
}

// chunk takes one chunk of a structured reply.
func (c *Conn) chunk(r *bufio.Reader, h chunk) error {
	k, err := c.begin(h.cookie)
	if err != nil {
		return err
	}
	isRead := k.cmd == protocol.TRANSMISSION_TYPE_REQUEST_READ
	switch {
	case h.typ&chunkErrorBit != 0:
		err = c.errorChunk(r, k, h)
	case h.typ == chunkNone:
		if h.length != 0 || h.flags&chunkFlagDone == 0 {
			err = violationf("empty chunk of %d bytes with flags %#x", h.length, h.flags)
		}
	case h.typ == chunkOffsetData && isRead:
		err = c.dataChunk(r, k, h.length)
	case h.typ == chunkOffsetHole && isRead:
		err = c.holeChunk(r, k, h.length)
	case h.typ == chunkBlockStatus && k.cmd == cmdBlockStatus:
		err = c.statusChunk(r, k, h.length)
	default:
		err = violationf("chunk of type %d in reply to %s", h.typ, cmdNames[k.cmd])
	}
	if err == nil && h.flags&chunkFlagDone != 0 && k.err == nil {
		switch {
		case isRead && k.filled != uint64(k.lengthBytes):
			err = violationf("read of %d bytes answered with %d", k.lengthBytes, k.filled)
		case k.cmd == cmdBlockStatus && len(k.extents) == 0:
			err = violationf("block status answered without extents")
		}
	}
	if err != nil {
		c.end(k)
		return err
	}
	if h.flags&chunkFlagDone != 0 {
		c.finish(h.cookie, k)
	} else {
		c.end(k)
	}
	return nil
}

// begin finds the request of a reply and keeps its caller from leaving.
func (c *Conn) begin(cookie uint64) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.pending[cookie]
	if k == nil {
		return nil, violationf("reply to unknown request %#x", cookie)
	}
	k.filling = true
	return k, nil
}

// end lets the caller of k leave again; the request stays in flight.
func (c *Conn) end(k *call) {
	c.mu.Lock()
	k.filling = false
	c.mu.Unlock()
}

// broken ends k and reports a violation.
func (c *Conn) broken(k *call, text string) error {
	c.end(k)
	return violationf("%s", text)
}

// finish completes k. Its caller owns it from here.
func (c *Conn) finish(cookie uint64, k *call) {
	c.mu.Lock()
	delete(c.pending, cookie)
	c.mu.Unlock()
	c.tell(k)
}

// tell tells the maker of k that it is done.
func (c *Conn) tell(k *call) {
	if k.async != nil {
		k.async.completed(c)
		return
	}
	k.done <- struct{}{}
}

// data reads n bytes of a read's data to offset at of its buffer, or away when
// the caller has left.
func (c *Conn) data(r *bufio.Reader, k *call, at uint64, n uint32) error {
	var err error
	if k.p == nil {
		_, err = io.CopyN(io.Discard, r, int64(n))
	} else {
		_, err = io.ReadFull(r, k.p[at:at+uint64(n)])
	}
	k.filled += uint64(n)
	if err != nil {
		return block.Errorf(block.Unavailable, "read the data of a reply: %w", err)
	}
	return nil
}

// place reads the offset that begins a data or hole chunk and checks that n
// bytes there lie within the request; it returns the place in its buffer.
func (k *call) place(offBytes uint64, n uint32) (uint64, error) {
	at := offBytes - k.offBytes
	if offBytes < k.offBytes || at > uint64(k.lengthBytes) || uint64(n) > uint64(k.lengthBytes)-at {
		return 0, violationf("%d bytes at %d in reply to a read of %d at %d", n, offBytes, k.lengthBytes, k.offBytes)
	}
	if uint64(n) > uint64(k.lengthBytes)-k.filled {
		return 0, violationf("more than %d bytes in reply to a read of them", k.lengthBytes)
	}
	return at, nil
}

func (c *Conn) dataChunk(r *bufio.Reader, k *call, length uint32) error {
	if length <= 8 {
		return violationf("data chunk of %d bytes", length)
	}
	var b [8]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return block.Errorf(block.Unavailable, "read a data chunk: %w", err)
	}
	at, err := k.place(binary.BigEndian.Uint64(b[:]), length-8)
	if err != nil {
		return err
	}
	return c.data(r, k, at, length-8)
}

func (c *Conn) holeChunk(r *bufio.Reader, k *call, length uint32) error {
	var b [12]byte
	if length != uint32(len(b)) {
		return violationf("hole chunk of %d bytes, want %d", length, len(b))
	}
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return block.Errorf(block.Unavailable, "read a hole chunk: %w", err)
	}
	n := binary.BigEndian.Uint32(b[8:])
	at, err := k.place(binary.BigEndian.Uint64(b[:]), n)
	if err != nil {
		return err
	}
	if n == 0 {
		return violationf("hole of no bytes")
	}
	if k.p != nil {
		clear(k.p[at : at+uint64(n)])
	}
	k.filled += uint64(n)
	return nil
}

func (c *Conn) statusChunk(r *bufio.Reader, k *call, length uint32) error {
	n := (length - 4) / extentBytes
	if length < 4+extentBytes || (length-4)%extentBytes != 0 || n > MaxStatusExtents {
		return violationf("block status chunk of %d bytes", length)
	}
	if len(k.extents) != 0 {
		return violationf("two block status chunks for one context")
	}
	var b [extentBytes]byte
	if _, err := io.ReadFull(r, b[:4]); err != nil {
		return block.Errorf(block.Unavailable, "read a block status chunk: %w", err)
	}
	if id := binary.BigEndian.Uint32(b[:]); id != c.info.contextID {
		return violationf("block status of context %d, want %d", id, c.info.contextID)
	}
	left := uint64(k.lengthBytes)
	for range n {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return block.Errorf(block.Unavailable, "read a block status chunk: %w", err)
		}
		run, flags := uint64(binary.BigEndian.Uint32(b[:])), binary.BigEndian.Uint32(b[4:])
		if run == 0 || left == 0 {
			return violationf("block status extent of %d bytes with %d left of the request", run, left)
		}
		run = min(run, left) // the last may reach beyond the request
		left -= run
		k.extents = append(k.extents, Extent{LengthBytes: run, Hole: flags&extentFlagHole != 0, Zero: flags&extentFlagZero != 0})
	}
	return nil
}

func (c *Conn) errorChunk(r *bufio.Reader, k *call, h chunk) error {
	if h.length < 6 || h.length > 6+8+MaxErrorTextBytes {
		return violationf("error chunk of %d bytes", h.length)
	}
	b := make([]byte, h.length)
	if _, err := io.ReadFull(r, b); err != nil {
		return block.Errorf(block.Unavailable, "read an error chunk: %w", err)
	}
	errno, textBytes := binary.BigEndian.Uint32(b), int(binary.BigEndian.Uint16(b[4:]))
	if errno == 0 || textBytes > len(b)-6 {
		return violationf("error chunk of %d bytes with errno %d and %d bytes of text", h.length, errno, textBytes)
	}
	if h.typ == chunkErrorOffset && len(b) != 6+textBytes+8 {
		return violationf("error chunk of %d bytes with %d bytes of text and an offset", h.length, textBytes)
	}
	if k.err == nil {
		k.err = k.serverError(c, errno, quoteText(b[6:6+textBytes]))
	}
	return nil
}

// serverError is what the caller of k gets for an errno of the server.
func (k *call) serverError(c *Conn, errno uint32, text string) error {
	kind := kindOfErrno(errno)
	what := cmdNames[k.cmd]
	if k.cmd != cmdFlush {
		what = fmt.Sprintf("%s %d bytes at %d", what, k.lengthBytes, k.offBytes)
	}
	return &serverError{errno: errno, err: block.Errorf(kind, "%s: NBD server %s answers errno %d (%s)%s", what, c.addr, errno, kind, text)}
}

// serverError marks an answer of the server, as opposed to a lost connection.
type serverError struct {
	errno uint32
	err   error
}

func (e *serverError) Error() string { return e.err.Error() }
func (e *serverError) Unwrap() error { return e.err }
