package nbdserver

import (
	"context"
	"math/bits"
	"sync"

	"github.com/slackerd/slacker/block"
)

// maxStatusBytes bounds the range that one BLOCK_STATUS looks at: the reply
// then covers less than was asked for, which the protocol allows.
const maxStatusBytes = 64 << 30

// status is the memory of one BLOCK_STATUS while it is worked out.
type status struct {
	extents []Extent
	runs    []Status
}

var statuses = sync.Pool{New: func() any { return new(status) }}

// maxExtentBytes is what an extent takes in a reply, and maxContextBytes what a
// context takes beside its extents.
const (
	maxExtentBytes  = 16
	maxContextBytes = extendedChunkBytes + 8
)

// statusExtents returns how many extents of each context a BLOCK_STATUS may be
// answered with: so many that the reply is no longer than the data of a READ may
// be.
func (c *conn) statusExtents(r *request) int {
	if r.flags&cmdFlagReqOne != 0 {
		return 1
	}
	each := c.srv.limits.RequestBytes / bits.OnesCount32(r.contexts)
	return min(c.srv.limits.StatusExtents, (each-maxContextBytes)/maxExtentBytes)
}

// statusBytes returns how long the reply to a BLOCK_STATUS can be.
func (c *conn) statusBytes(r *request) int {
	return bits.OnesCount32(r.contexts) * (maxContextBytes + maxExtentBytes*c.statusExtents(r))
}

// runStatus works out a BLOCK_STATUS into the command's buffer and sends that.
func (c *conn) runStatus(ctx context.Context, r *request) {
	b := r.buf
	r.buf = nil
	s := statuses.Get().(*status)
	reply, err := c.collectStatus(ctx, r, s, b.data(c.statusBytes(r))[:0])
	statuses.Put(s)
	e, ok := c.result(r, err)
	if ok && e == OK {
		b.from, b.to = headBytes, headBytes+len(reply)
		c.out.send(nil, b)
		return
	}
	b.release()
	if ok {
		c.sendResult(r, e, err)
	}
}

// collectStatus appends the reply to a BLOCK_STATUS to reply: one chunk for each
// context that is asked for.
func (c *conn) collectStatus(ctx context.Context, r *request, s *status, reply []byte) (_ []byte, err error) {
	limit := c.statusExtents(r)
	nBytes := min(r.lengthBytes, maxStatusBytes)
	left := r.contexts
	for i := range c.contexts {
		if left&(1<<i) == 0 {
			continue
		}
		left &^= 1 << i
		if of := c.contexts[i].of; of != nil {
			s.runs, err = of.Status(ctx, s.runs[:0], r.offBytes, nBytes, limit)
		} else {
			err = c.allocation(ctx, r.offBytes, nBytes, limit, s)
		}
		if err == nil {
			err = checkRuns(s.runs, nBytes, limit, c.info.MinBlockBytes)
		}
		if err != nil {
			return nil, err
		}
		flags := uint16(0)
		if left == 0 {
			flags = chunkFlagDone
		}
		reply = c.headers.appendStatus(reply, flags, r, uint32(i+1), s.runs)
	}
	return reply, nil
}

// allocation asks for what base:allocation says.
func (c *conn) allocation(ctx context.Context, offBytes, nBytes uint64, limit int, s *status) (err error) {
	s.extents, err = c.dev.Extents(ctx, s.extents[:0], offBytes, nBytes, limit)
	s.runs = s.runs[:0]
	for _, e := range s.extents {
		s.runs = append(s.runs, Status{e.LengthBytes, e.state()})
	}
	return err
}

// checkRuns holds a device to the contract of Extents.
func checkRuns(runs []Status, lengthBytes uint64, limit int, minBlockBytes uint32) error {
	if len(runs) == 0 || len(runs) > limit {
		return block.Errorf(block.Internal, "device returned %d extents: want 1 to %d", len(runs), limit)
	}
	left := lengthBytes
	for i, e := range runs {
		if e.LengthBytes == 0 || e.LengthBytes > left || e.LengthBytes%uint64(minBlockBytes) != 0 {
			return block.Errorf(block.Internal, "extent %d has %d bytes of %d left: want 1 to those, and a multiple of %d", i, e.LengthBytes, left, minBlockBytes)
		}
		left -= e.LengthBytes
	}
	return nil
}

// appendStatus appends the chunk of one context; neighbours of one state become
// one.
func (h headers) appendStatus(b []byte, flags uint16, r *request, id uint32, runs []Status) []byte {
	n := 0
	for i := range runs {
		if n > 0 && runs[i].Flags == runs[n-1].Flags {
			runs[n-1].LengthBytes += runs[i].LengthBytes
			continue
		}
		runs[n] = runs[i]
		n++
	}
	runs = runs[:n]
	if h == extended {
		b = h.appendChunk(b, flags, chunkStatusExt, r, 8+16*n)
		b = be.AppendUint32(b, id)
		b = be.AppendUint32(b, uint32(n))
		for _, e := range runs {
			b = be.AppendUint64(b, e.LengthBytes)
			b = be.AppendUint64(b, uint64(e.Flags))
		}
		return b
	}
	b = h.appendChunk(b, flags, chunkStatus, r, 4+8*n)
	b = be.AppendUint32(b, id)
	for _, e := range runs {
		b = be.AppendUint32(b, uint32(e.LengthBytes))
		b = be.AppendUint32(b, e.Flags)
	}
	return b
}

func (e Extent) state() uint32 {
	var s uint32
	if e.Hole {
		s |= stateHole
	}
	if e.Zero {
		s |= stateZero
	}
	return s
}

// filterBytes is the payload of a BLOCK_STATUS that asks for n contexts.
func filterBytes(n int) uint64 { return 8 + 4*uint64(n) }

// chooseContexts says which contexts a BLOCK_STATUS is about: all that are set,
// or with extended headers those of its payload: u64 length, and u32 ids. A
// payload that cannot be right stays unread, and one that is not leaves no
// context: both are refused.
func (c *conn) chooseContexts(r *request) error {
	if c.headers != extended || r.flags&cmdFlagPayload == 0 {
		r.contexts = 1<<len(c.contexts) - 1
		return nil
	}
	n := r.payloadBytes
	if n < filterBytes(1) || n > filterBytes(len(c.contexts)) || n%4 != 0 {
		return nil
	}
	if err := c.readPayload(r); err != nil {
		return err
	}
	p := r.payload
	r.payload, r.lengthBytes = nil, be.Uint64(p)
	var want uint32
	for p = p[8:]; len(p) > 0; p = p[4:] {
		id := be.Uint32(p)
		if id < 1 || id > uint32(len(c.contexts)) || want&(1<<(id-1)) != 0 {
			return nil
		}
		want |= 1 << (id - 1)
	}
	r.contexts = want
	return nil
}
