package fusefile

import (
	"encoding/binary"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/nbdclient"
)

// smallBytes is what the buffer of an operation has at least. Larger ones get
// a buffer of the largest size, which is kept apart.
const smallBytes = 64 << 10

// operation is one read, write or sync that is under way.
type operation struct {
	request nbdclient.Request
	server  *Server
	began   time.Time
	unique  uint64
	buf     []byte // the answer; and the data of a write, beyond that
	large   bool   // buf takes any message
}

// operations keeps what is not in use.
type operations struct{ small, large sync.Pool }

func (s *Server) operation(unique uint64, dataBytes int) *operation {
	pool := &s.free.small
	large := dataBytes > smallBytes
	if large {
		pool = &s.free.large
	}
	o, ok := pool.Get().(*operation)
	if !ok {
		o = &operation{server: s, large: large}
		o.request.Done = o.done
		if large {
			o.buf = s.newBuffer()
		} else {
			o.buf = make([]byte, outHeaderBytes+smallBytes)
		}
	}
	o.unique, o.began = unique, time.Now()
	return o
}

// done answers the kernel. It runs where the replies of the session arrive.
func (o *operation) done(r *nbdclient.Request, err error) {
	p := o.buf[:outHeaderBytes]
	switch {
	case err != nil:
	case r.Op == nbdclient.OpRead:
		p = o.buf[:outHeaderBytes+len(r.Data)]
	case r.Op == nbdclient.OpWrite:
		p = o.buf[:outHeaderBytes+8]
		binary.NativeEndian.PutUint64(p[outHeaderBytes:], 0) // size and padding
		binary.NativeEndian.PutUint32(p[outHeaderBytes:], uint32(len(r.Data)))
	}
	putHeader(p, o.unique, errnoOf(err), len(p))
	o.server.finish(o, p, err)
}

// finish sends the answer and puts o away.
func (s *Server) finish(o *operation, answer []byte, err error) {
	if werr := s.device.write(answer); werr != nil {
		s.log.Error(werr.Error())
	}
	s.counters.add(o.request.Op, uint64(len(o.request.Data)), o.began, err)
	if err != nil {
		s.failed(o, err)
	}
	o.request.Data = nil
	if o.large {
		s.free.large.Put(o)
	} else {
		s.free.small.Put(o)
	}
}

// read begins a read. What lies beyond the end is not answered.
func (s *Server) read(unique uint64, body []byte) {
	off, n := binary.NativeEndian.Uint64(body[8:]), uint64(binary.NativeEndian.Uint32(body[16:]))
	size := s.export.Info().SizeBytes
	if n > uint64(s.device.Settings.MaxWriteBytes) {
		s.refuse(unique, unix.EINVAL)
		return
	}
	if off >= size || n == 0 {
		s.refuse(unique, 0)
		return
	}
	n = min(n, size-off)
	o := s.operation(unique, int(n))
	o.request.Op, o.request.OffBytes, o.request.Data = nbdclient.OpRead, off, o.buf[outHeaderBytes:outHeaderBytes+n]
	s.batch.Submit(&o.request)
}

// write begins a write. Its data is copied when it is little; else the message
// changes hands, and the buffer of the operation takes the next one.
func (s *Server) write(unique uint64, body []byte) {
	off, n := binary.NativeEndian.Uint64(body[8:]), int(binary.NativeEndian.Uint32(body[16:]))
	data := body[ioBytes:]
	if n != len(data) || n == 0 {
		s.refuse(unique, unix.EINVAL)
		return
	}
	o := s.operation(unique, n)
	if o.large {
		o.buf, s.buf = s.buf, o.buf // data lies in the operation's buffer now
	} else {
		data = o.buf[outHeaderBytes : outHeaderBytes+copy(o.buf[outHeaderBytes:], data)]
	}
	o.request.Op, o.request.OffBytes, o.request.Data = nbdclient.OpWrite, off, data
	s.batch.Submit(&o.request)
}

func (s *Server) sync(unique uint64) {
	o := s.operation(unique, 0)
	o.request.Op, o.request.OffBytes, o.request.Data = nbdclient.OpFlush, 0, nil
	s.batch.Submit(&o.request)
}
