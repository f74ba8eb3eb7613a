package nbdclient

import (
	"context"

	"github.com/pojntfx/go-nbd/pkg/protocol"

	"github.com/slackerd/slacker/block"
)

// Op is what a [Request] does.
type Op uint8

// The operations that can be submitted. What has no data is rare and has
// methods that wait.
const (
	OpRead Op = iota
	OpWrite
	OpFlush
)

// Request is a request that is under way while its maker goes on. Data is the
// session's from Submit until Done, and so is the Request itself, which can then
// be submitted again. It holds what a request in flight needs, so that none
// allocates.
type Request struct {
	Op       Op
	OffBytes uint64
	Data     []byte // what is written, or where what is read goes
	FUA      bool   // what is written is durable when it is done
	// Done is called once for each Submit, from any goroutine, also from within
	// Submit. It must not wait: replies to other requests wait for it.
	Done func(r *Request, err error)

	session *Session
	slot    *slot
	conn    *Conn
	call    call
}

const (
	// maxHeldBytes is how much of requests a connection holds back before it sends
	// them without being told to.
	maxHeldBytes = 128 << 10
	// copiedBytes is up to where the data of a write joins the requests held back,
	// instead of being sent from where it lies, by a goroutine of its own.
	copiedBytes = 16 << 10
)

// Batch sends the requests of one goroutine, several in one system call.
type Batch struct {
	session *Session
	held    []*Conn // that have requests to be sent

	receiving receiving
}

// NewBatch returns a batch for one goroutine.
func (s *Session) NewBatch() *Batch { return &Batch{session: s} }

// Submit starts r. It may be held back until Send. Where the session has no
// connection just now, r waits for one; Submit does not. The order in which requests
// are carried out is free.
func (b *Batch) Submit(r *Request) {
	r.session = b.session
	if !b.submit(r) {
		go r.again(nil)
	}
}

// Send sends what is held back.
func (b *Batch) Send() {
	for i, c := range b.held {
		b.sendHeld(c)
		b.held[i] = nil
	}
	b.held = b.held[:0]
}

// submit starts r on a live connection, if there is one.
func (b *Batch) submit(r *Request) bool {
	s := b.session
	s.mu.Lock()
	sl, c := s.choose(len(r.Data))
	s.mu.Unlock()
	if c == nil {
		return false
	}
	if err := r.check(c); err != nil {
		r.Done(r, err)
		return true
	}
	if r.Op == OpFlush && !c.info.Flags.Has(FlagSendFlush) {
		r.Done(r, nil)
		return true
	}
	if r.FUA && !c.info.Flags.Has(FlagSendFUA) {
		return false // a write and a flush, which wait
	}
	r.slot, r.conn = sl, c
	b.receiving.note(c, len(r.Data))
	if !c.start(r, b) {
		return false
	}
	for _, have := range b.held {
		if have == c {
			return true
		}
	}
	b.held = append(b.held, c)
	return true
}

func (r *Request) check(c *Conn) error {
	if r.Op == OpFlush {
		return nil
	}
	if n := uint64(len(r.Data)); n == 0 || n > uint64(c.info.MaxPayloadBytes) {
		return block.Errorf(block.Invalid, "submit a request of %d bytes, want 1 to %d", n, c.info.MaxPayloadBytes)
	}
	return c.bounds(r.OffBytes, uint64(len(r.Data)))
}

// completed is called when c is done with r.
func (r *Request) completed(c *Conn) {
	err := r.call.err
	r.slot.inFlight.Add(-1)
	r.call.p = nil
	if err != nil && lost(c, err) {
		go r.again(c) // it waits
		return
	}
	r.Done(r, err)
}

// again carries out a request that found no connection, or lost c, which the
// server has to have fenced before.
func (r *Request) again(c *Conn) {
	s := r.session
	if c != nil {
		if err := s.awaitSuccessor(s.ctx, r.slot, c); err != nil {
			r.Done(r, err)
			return
		}
	}
	ctx := context.Background()
	var err error
	switch r.Op {
	case OpRead:
		err = s.ReadAt(ctx, r.Data, r.OffBytes)
	case OpWrite:
		err = s.WriteAt(ctx, r.Data, r.OffBytes, r.FUA)
	case OpFlush:
		err = s.Flush(ctx)
	}
	r.Done(r, err)
}

// choose returns the slot for a request with so many bytes of data; the caller
// holds s.mu. Small requests share a connection as long as it has few in
// flight, since then one system call carries several of them, at either end.
func (s *Session) choose(dataBytes int) (*slot, *Conn) {
	if dataBytes <= copiedBytes {
		for _, sl := range s.slots {
			if sl.conn != nil && sl.inFlight.Load() < sharedRequests {
				return sl, sl.conn
			}
		}
	}
	return s.least()
}

// sharedRequests is how many small requests one connection gets before the
// next one does.
const sharedRequests = 32

// start registers r and sends it, or holds it back. A connection that is lost
// on the way completes it like any other; one that was dead before refuses it.
func (c *Conn) start(r *Request, b *Batch) bool {
	cmd, flags := cmdFlush, uint16(0)
	r.call = call{async: r, offBytes: r.OffBytes, lengthBytes: uint32(len(r.Data))}
	switch r.Op {
	case OpRead:
		cmd, r.call.p = protocol.TRANSMISSION_TYPE_REQUEST_READ, r.Data
	case OpWrite:
		cmd = protocol.TRANSMISSION_TYPE_REQUEST_WRITE
		if r.FUA {
			flags = cmdFlagFUA
		}
	case OpFlush:
		r.call.offBytes, r.call.lengthBytes = 0, 0
	}
	r.call.cmd = cmd
	// Once it is registered r may be done, and used again, at any time.
	data, offBytes, lengthBytes, sl := r.Data, r.call.offBytes, r.call.lengthBytes, r.slot
	sl.inFlight.Add(1)
	cookie, err := c.register(&r.call, b.receiving.conn != c)
	if err != nil {
		sl.inFlight.Add(-1)
		return false
	}
	if cmd != protocol.TRANSMISSION_TYPE_REQUEST_WRITE {
		data = nil
	}
	if len(data) > copiedBytes {
		go c.sendLarge(flags, cookie, offBytes, data)
		return true
	}
	b.lock(c)
	defer c.sendMu.Unlock()
	c.putHeader(cmd, flags, cookie, offBytes, lengthBytes)
	c.held = append(append(c.held, c.header[:]...), data...)
	if len(c.held) >= maxHeldBytes {
		b.transmit(c)
	}
	return true
}

// sendLarge sends a write, for as long as the server takes to read it: whoever
// submitted it goes on meanwhile.
func (c *Conn) sendLarge(flags uint16, cookie, offBytes uint64, data []byte) {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.putHeader(protocol.TRANSMISSION_TYPE_REQUEST_WRITE, flags, cookie, offBytes, uint32(len(data)))
	c.held = append(c.held, c.header[:]...)
	c.transmit(data) // if c has ended, data may be somebody else's, and is not read
}

// sendHeld sends what c holds back.
func (b *Batch) sendHeld(c *Conn) {
	b.lock(c)
	defer c.sendMu.Unlock()
	if len(c.held) > 0 {
		b.transmit(c)
	}
}
