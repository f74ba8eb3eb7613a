package relay

import (
	"context"
	"encoding/binary"
	"sync"

	"github.com/pojntfx/go-nbd/pkg/protocol"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
)

// Constants of the protocol that go-nbd's package lacks.
const (
	requestBytes   = 28
	replyBytes     = 16
	cmdFlush       = uint16(3)
	cmdTrim        = uint16(4)
	cmdWriteZeroes = uint16(6)
	flagFUA        = uint16(1)
	flagNoHole     = uint16(2)
)

// smallBytes is what the buffer of an operation has at least. Operations with
// larger ones are kept apart.
const smallBytes = 64 << 10

// operation is one request of the kernel that is under way.
type operation struct {
	request nbdclient.Request
	link    *Link
	cookie  uint64
	buf     []byte // the answer; and the data of a write, behind its header
	room    int64  // of the link's, that it has
}

// operations keeps what is not in use.
type operations struct{ small, large sync.Pool }

func (f *operations) pool(bufBytes int) *sync.Pool {
	if bufBytes > replyBytes+smallBytes {
		return &f.large
	}
	return &f.small
}

// operation returns one with room for so many bytes of data. It waits while the
// link's requests hold too much; what is held back is sent before.
func (l *Link) operation(cookie uint64, dataBytes int) *operation {
	need := replyBytes + max(dataBytes, smallBytes)
	if !l.room.TryAcquire(int64(need)) {
		l.batch.Send()
		_ = l.room.Acquire(context.Background(), int64(need)) // what holds it is answered in the end
	}
	o, ok := l.free.pool(need).Get().(*operation)
	if !ok {
		o = &operation{link: l}
		o.request.Done = o.done
	}
	if len(o.buf) < need {
		o.buf = make([]byte, need)
	}
	o.cookie, o.room = cookie, int64(need)
	l.under.Add(1)
	return o
}

// data is where n bytes of data lie.
func (o *operation) data(n int) []byte { return o.buf[replyBytes : replyBytes+n : replyBytes+n] }

// done answers the kernel (R1). It runs where the replies of the session arrive.
func (o *operation) done(r *nbdclient.Request, err error) {
	p := o.buf[:replyBytes]
	if err == nil && r.Op == nbdclient.OpRead {
		p = o.buf[:replyBytes+len(r.Data)]
	}
	o.finish(p, err)
}

// finish sends the answer p, whose header it fills in, and puts o away.
func (o *operation) finish(p []byte, err error) {
	l := o.link
	if err != nil {
		l.log.Error("request of the kernel failed", zap.Error(err))
	}
	binary.BigEndian.PutUint32(p[0:], protocol.TRANSMISSION_MAGIC_REPLY)
	binary.BigEndian.PutUint32(p[4:], errnoOf(err))
	binary.BigEndian.PutUint64(p[8:], o.cookie)
	l.answer(p)
	room := o.room
	o.request.Data = nil
	l.free.pool(len(o.buf)).Put(o)
	l.room.Release(room)
	l.under.Done()
}

// errnoOf maps an error to the errno of an answer. The kernel makes an I/O error of
// each of them.
func errnoOf(err error) uint32 {
	if err == nil {
		return 0
	}
	switch block.KindOf(err) {
	case block.NoSpace:
		return uint32(unix.ENOSPC)
	case block.Invalid:
		return uint32(unix.EINVAL)
	case block.ReadOnly, block.Permission:
		return uint32(unix.EPERM)
	}
	return uint32(unix.EIO)
}

// read takes requests until the kernel disconnects or the link ends or pauses.
func (l *Link) read() error {
	for {
		h, err := l.in.take(requestBytes)
		if err != nil {
			return err
		}
		if magic := binary.BigEndian.Uint32(h); magic != protocol.TRANSMISSION_MAGIC_REQUEST {
			return block.Errorf(block.Invalid, "request magic %#x, want %#x", magic, protocol.TRANSMISSION_MAGIC_REQUEST)
		}
		flags, cmd := binary.BigEndian.Uint16(h[4:]), binary.BigEndian.Uint16(h[6:])
		cookie, off, n := binary.BigEndian.Uint64(h[8:]), binary.BigEndian.Uint64(h[16:]), binary.BigEndian.Uint32(h[24:])
		switch cmd {
		case protocol.TRANSMISSION_TYPE_REQUEST_DISC:
			return nil
		case protocol.TRANSMISSION_TYPE_REQUEST_READ, protocol.TRANSMISSION_TYPE_REQUEST_WRITE, cmdFlush:
			err = l.submit(cmd, flags, cookie, off, n)
		case cmdTrim, cmdWriteZeroes:
			l.aside(cmd, flags, cookie, off, uint64(n))
		default:
			err = block.Errorf(block.Invalid, "request of type %d", cmd)
		}
		if err != nil {
			return err
		}
	}
}

// submit begins a request that is under way while the reader goes on.
func (l *Link) submit(cmd, flags uint16, cookie, off uint64, n uint32) error {
	if n > block.MaxRequestBytes {
		return block.Errorf(block.Invalid, "request of %d bytes, want at most %d", n, block.MaxRequestBytes)
	}
	o := l.operation(cookie, int(n))
	r := &o.request
	r.Op, r.OffBytes, r.Data, r.FUA = nbdclient.OpFlush, off, nil, false
	switch cmd {
	case protocol.TRANSMISSION_TYPE_REQUEST_READ:
		r.Op, r.Data = nbdclient.OpRead, o.data(int(n))
	case protocol.TRANSMISSION_TYPE_REQUEST_WRITE:
		r.Op, r.Data, r.FUA = nbdclient.OpWrite, o.data(int(n)), flags&flagFUA != 0
		if err := l.in.fill(r.Data); err != nil {
			l.Close()
			o.finish(o.buf[:replyBytes], err) // to nobody
			return err
		}
	}
	l.batch.Submit(r)
	return nil
}

// aside carries out what has no data, and is rare, in a goroutine of its own; the
// kernel has some hundred requests in flight at most.
func (l *Link) aside(cmd, flags uint16, cookie, off, n uint64) {
	o := l.operation(cookie, 0)
	go func() {
		ctx, fua := context.Background(), flags&flagFUA != 0
		var err error
		if cmd == cmdTrim {
			err = l.session.Trim(ctx, off, n, fua)
		} else {
			err = l.session.WriteZeroes(ctx, off, n, flags&flagNoHole != 0, fua)
		}
		o.finish(o.buf[:replyBytes], err)
	}()
}
