package nbdserver

import (
	"context"

	"github.com/slackerd/slacker/block"
)

// run executes a command that may wait, answers it and releases what it holds.
// It runs in any goroutine of the connection, m being that goroutine's.
func (c *conn) run(r *request, m measuredContext) {
	if c.dead.Load() {
		r.release()
		return
	}
	if c.rec != nil {
		m.waits.Reset()
		r.ran, r.waits = c.srv.now(), m.waits
	}
	switch r.cmd {
	case CmdRead:
		c.runRead(m, r)
		return
	case CmdBlockStatus:
		c.runStatus(m, r)
		return
	}
	err := c.runPlain(m, r)
	if err == nil && commands[r.cmd].writes && !r.fua() {
		err = c.dev.Settle()
	}
	r.release()
	if e, ok := c.result(r, err); ok {
		c.sendResult(r, e, err)
	}
}

// runPlain executes a command whose reply carries no data.
func (c *conn) runPlain(ctx context.Context, r *request) error {
	switch r.cmd {
	case CmdWrite:
		return c.dev.WriteAt(ctx, r.payload, r.offBytes, r.fua())
	case CmdFlush:
		return c.dev.Flush(ctx)
	case CmdTrim:
		return c.dev.Trim(ctx, r.offBytes, r.lengthBytes, r.fua())
	case CmdWriteZeroes:
		return c.dev.WriteZeroes(ctx, r.offBytes, r.lengthBytes, r.flags&cmdFlagNoHole != 0, r.fua())
	case CmdCache:
		return c.dev.Cache(ctx, r.offBytes, r.lengthBytes)
	}
	return block.Errorf(block.Internal, "nbd command %d passed the check and has no code", uint16(r.cmd))
}

func (c *conn) sendResult(r *request, e Errno, err error) {
	if e != OK {
		c.out.send(c.headers.appendResult(nil, r, e, textOf(err)), nil)
		return
	}
	var b [extendedChunkBytes]byte
	c.out.send(c.headers.appendResult(b[:0], r, OK, ""), nil)
}

func (c *conn) runRead(ctx context.Context, r *request) {
	n := int(r.lengthBytes)
	b := r.buf
	r.buf = nil
	err := c.dev.ReadAt(ctx, b.data(n), r.offBytes)
	if e, ok := c.result(r, err); ok {
		c.sendRead(r, b, e, textOf(err))
		return
	}
	b.release()
}
