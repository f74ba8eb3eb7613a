package nbdserver

import (
	"bytes"
	"context"
	"sync"

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
	if e != OK && c.structured {
		c.out.send(appendError(nil, e, r.cookie, textOf(err)), nil)
		return
	}
	var b [simpleReplyBytes]byte
	c.out.send(appendSimple(b[:0], e, r.cookie), nil)
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

// status is the memory of one BLOCK_STATUS.
type status struct {
	extents []Extent
	reply   []byte
}

var statuses = sync.Pool{New: func() any { return new(status) }}

func (c *conn) runStatus(ctx context.Context, r *request) {
	s := statuses.Get().(*status)
	defer statuses.Put(s)
	limit := c.srv.limits.StatusExtents
	if r.flags&cmdFlagReqOne != 0 {
		limit = 1
	}
	var err error
	s.extents, err = c.dev.Extents(ctx, s.extents[:0], r.offBytes, r.lengthBytes, limit)
	if err == nil {
		err = checkExtents(s.extents, r.lengthBytes, limit)
	}
	e, ok := c.result(r, err)
	switch {
	case !ok:
	case e != OK:
		c.sendResult(r, e, err)
	default:
		s.reply = appendStatus(s.reply[:0], r.cookie, s.extents)
		c.out.send(s.reply, nil)
	}
}

// checkExtents holds a device to the contract of Extents.
func checkExtents(es []Extent, lengthBytes uint64, limit int) error {
	if len(es) == 0 || len(es) > limit {
		return block.Errorf(block.Internal, "device returned %d extents: want 1 to %d", len(es), limit)
	}
	left := lengthBytes
	for i, e := range es {
		if e.LengthBytes == 0 || e.LengthBytes > left {
			return block.Errorf(block.Internal, "extent %d has %d bytes of %d left: want 1 to those", i, e.LengthBytes, left)
		}
		left -= e.LengthBytes
	}
	return nil
}

// appendStatus appends a BLOCK_STATUS reply; neighbours of one state become
// one.
func appendStatus(b []byte, cookie uint64, es []Extent) []byte {
	start := len(b)
	b = appendChunk(b, chunkStatus, cookie, 0)
	b = be.AppendUint32(b, metaContextID)
	for i := 0; i < len(es); {
		e := es[i]
		for i++; i < len(es) && es[i].Hole == e.Hole && es[i].Zero == e.Zero; i++ {
			e.LengthBytes += es[i].LengthBytes
		}
		var state uint32
		if e.Hole {
			state |= stateHole
		}
		if e.Zero {
			state |= stateZero
		}
		b = be.AppendUint32(b, uint32(e.LengthBytes))
		b = be.AppendUint32(b, state)
	}
	be.PutUint32(b[start+chunkHeaderBytes-4:], uint32(len(b)-start-chunkHeaderBytes))
	return b
}

var zeroes [64 << 10]byte

// isZero reports whether all of p is zero.
func isZero(p []byte) bool {
	for len(p) > len(zeroes) {
		if !bytes.Equal(p[:len(zeroes)], zeroes[:]) {
			return false
		}
		p = p[len(zeroes):]
	}
	return bytes.Equal(p, zeroes[:len(p)])
}
