package nbdserver

import (
	"errors"

	"github.com/slackerd/slacker/block"
	"go.uber.org/zap"
)

const (
	// batchBytes is the buffer that replies of the reading goroutine gather in.
	batchBytes = 256 << 10
	// batchedReadBytes is the longest READ whose data goes into the batch.
	batchedReadBytes = 64 << 10
	// pipelinedFor is for how many commands a client that once sent several at
	// a time is taken to do so again.
	pipelinedFor = 64
)

// transmit serves commands until the client or the server ends. It returns nil
// when everything that was received has been answered.
func (c *conn) transmit() error {
	c.in.readFrom(c.nc, c.input)
	c.lendFrom()
	err := c.readCommands()
	c.workers.stop()
	c.flush()
	c.lend.shut()
	if errors.Is(err, errEnd) {
		c.paused = true
		return nil
	}
	return err
}

func (c *conn) readCommands() error {
	var r request
	for {
		if err := c.fillHeader(); err != nil {
			return err
		}
		if c.dead.Load() {
			return errStopped
		}
		if !r.parse(c.headers, c.in.take(c.headers.requestBytes())) {
			return block.Errorf(block.Invalid, "request magic of %s headers is wrong", c.headers)
		}
		if r.cmd == CmdDisc {
			return nil
		}
		c.learn(r.cmd)
		c.arrived(&r)
		held := c.holds
		if err := c.command(&r); err != nil {
			return err
		}
		if held {
			c.holds = false
		}
	}
}

// command reads what belongs to a command and runs it or hands it out.
func (c *conn) command(r *request) error {
	if r.cmd == CmdBlockStatus {
		if err := c.chooseContexts(r); err != nil {
			return err
		}
	}
	if e, text := c.check(r); e != OK {
		if err := c.dropPayload(r.payloadBytes); err != nil {
			return err
		}
		c.refuseCommand(r, e, text)
		return nil
	}
	c.in.long = r.payloadBytes > bufferedPayloadBytes
	if r.cmd == CmdWrite {
		if err := c.readPayload(r); err != nil {
			return err
		}
	}
	switch {
	case r.lengthBytes == 0 && commands[r.cmd].ranged:
		c.nothing(r)
	case r.cmd == CmdRead && c.readLent(r):
	case r.cmd == CmdRead && r.lengthBytes <= batchedReadBytes:
		return c.readBatched(r)
	case r.cmd == CmdRead:
		return c.readLarge(r)
	case r.cmd == CmdWrite && !r.fua():
		c.writeNow(r)
	default:
		return c.dispatch(r)
	}
	return nil
}

// refuseCommand answers a command that is not run.
func (c *conn) refuseCommand(r *request, e Errno, text string) {
	c.log.Debug("nbd command refused", zap.Stringer("command", r.cmd), zap.String("reason", text))
	c.appendReply(r, e, text)
	c.done(r, e)
}

// nothing answers a command of no bytes.
func (c *conn) nothing(r *request) {
	if r.cmd == CmdRead && c.headers != compact {
		c.room(extendedChunkBytes)
		c.appended(c.headers.appendChunk(c.batchTail(), chunkFlagDone, chunkNone, r, 0))
	} else {
		c.appendReply(r, OK, "")
	}
	c.done(r, OK)
}

// writeNow runs a WRITE that has not to be durable.
func (c *conn) writeNow(r *request) {
	err := c.dev.WriteAt(c.ctx, r.payload, r.offBytes, false)
	r.release()
	if e, ok := c.result(r, err); ok {
		c.unsettled = true
		c.holds = r.lengthBytes >= minHeldBytes && r.lengthBytes <= maxHeldBytes
		c.appendReply(r, e, textOf(err))
	}
}

// readBatched tries to read into the batch, behind the header.
func (c *conn) readBatched(r *request) error {
	n := int(r.lengthBytes)
	head := c.headers.dataBytes()
	c.room(head + n)
	tail := c.batchTail()
	data := tail[len(tail)+head : len(tail)+head+n : len(tail)+head+n]
	hit, err := c.dev.ReadNow(data, r.offBytes)
	if !hit && err == nil {
		return c.dispatch(r)
	}
	e, ok := c.result(r, err)
	switch {
	case !ok:
	case e != OK:
		c.appendReply(r, e, textOf(err))
	case c.headers != compact && block.IsZero(data):
		c.appended(c.headers.appendHole(tail, r))
	default:
		c.appended(c.headers.appendDataHead(tail, r)[:len(tail)+head+n])
	}
	return nil
}

// readLarge tries to read into a buffer that is sent as it is.
func (c *conn) readLarge(r *request) error {
	n := int(r.lengthBytes)
	b, err := c.newBuffer(n)
	if err != nil {
		return err
	}
	hit, err := c.dev.ReadNow(b.data(n), r.offBytes)
	if !hit && err == nil {
		r.buf = b
		return c.dispatch(r)
	}
	if e, ok := c.result(r, err); ok {
		c.sendRead(r, b, e, textOf(err))
	} else {
		b.release()
	}
	return nil
}

// dispatch runs a command that may wait: here when the client seems to wait for
// it alone, else in another goroutine. What comes behind one that runs here waits
// for it, and the next pipelinedFor are handed out; to hand out each would cost a
// client that does wait 3 to 5 us of each command.
func (c *conn) dispatch(r *request) error {
	if c.in.buffered() > 0 || c.workers.busy.Load() > 0 {
		c.pipelined = pipelinedFor
	}
	if c.pipelined == 0 {
		if r.cmd != CmdWrite { // its payload stays where it is until this returns
			if err := c.ownBuffer(r); err != nil {
				return err
			}
		}
		c.flush()
		c.run(r, c.own)
		return nil
	}
	c.pipelined--
	if err := c.ownBuffer(r); err != nil {
		return err
	}
	c.workers.do(r)
	return nil
}

// ownBuffer gives a command that carries data or a status a buffer of its own
// before it is handed out. Memory is always waited for here and never by the goroutine that
// runs a command: so what holds memory goes on, and those that wait for it get
// it.
func (c *conn) ownBuffer(r *request) error {
	n := int(r.lengthBytes)
	switch {
	case r.buf != nil:
		return nil
	case r.cmd == CmdBlockStatus:
		n = c.statusBytes(r)
	case r.cmd != CmdRead && r.cmd != CmdWrite:
		return nil
	}
	b, err := c.newBuffer(n)
	if err != nil {
		return err
	}
	r.buf = b
	if r.cmd == CmdWrite {
		r.payload = b.data(copy(b.data(n), r.payload))
	}
	return nil
}

// result accounts for a command that has run. It returns false when it must not
// be answered.
func (c *conn) result(r *request, err error) (Errno, bool) {
	e := OK
	if err != nil {
		if e = errnoOf(err); e == closes {
			c.kill(err)
		}
		if e == ENOTSUP && (r.cmd != CmdWriteZeroes || r.flags&cmdFlagFastZero == 0) {
			e = EIO // the protocol keeps ENOTSUP for FAST_ZERO
		}
		if e == EIO && !c.dead.Load() {
			c.log.Error("nbd command failed", zap.Stringer("command", r.cmd), zap.Uint64("off_bytes", r.offBytes),
				zap.Uint64("length_bytes", r.lengthBytes), zap.Error(err))
		}
	}
	c.done(r, e)
	return e, !c.dead.Load()
}
