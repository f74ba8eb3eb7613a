package fusefile

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
)

const (
	attrSeconds   = 3600 // nothing about the file ever changes
	fallocPunch   = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	fallocZero    = unix.FALLOC_FL_ZERO_RANGE
	fallocKeep    = unix.FALLOC_FL_KEEP_SIZE
	fuseBlockSize = block.Size
	// maxTaken is how many requests are taken in a row before what is held back of
	// them is sent: those that are answered at once, from a cache, may never end.
	maxTaken = 32
)

// Export is what the file shows: a [nbdclient.Session], or what is before one.
type Export interface {
	Info() nbdclient.Info
	WriteZeroes(ctx context.Context, offBytes, lengthBytes uint64, noHole, fua bool) error
}

// Batch takes the requests to an export, as [nbdclient.Batch] does.
type Batch interface {
	Submit(r *nbdclient.Request)
	Send()
	Await(file int)
	Release()
}

// Server serves a file over a device.
type Server struct {
	device   *Device
	export   Export
	name     string
	readOnly bool
	created  uint64
	log      *zap.Logger

	batch Batch  // of the reader
	buf   []byte // where the reader reads
	free  operations

	unlocked sync.Once      // it was said that buffers cannot be locked
	aside    sync.WaitGroup // requests that wait for the server apart from the reader
	failed   func(o *operation, err error)

	counters counters
}

// NewServer agrees with the kernel on the settings of the device, unless that
// was done before, and returns a server of a file of that name. The batch is the
// server's.
func NewServer(d *Device, export Export, batch Batch, name string, readOnly bool, log *zap.Logger) (*Server, error) {
	if err := unix.SetNonblock(d.fd, true); err != nil {
		return nil, block.Errorf(block.IO, "serve FUSE: %w", err)
	}
	if err := d.greet(); err != nil {
		return nil, err
	}
	s := &Server{device: d, export: export, batch: batch, name: name, readOnly: readOnly, created: uint64(time.Now().Unix()), log: log}
	s.failed = func(o *operation, err error) {
		log.Error("request failed", zap.Uint8("operation", uint8(o.request.Op)), zap.Uint64("offset", o.request.OffBytes), zap.Int("bytes", len(o.request.Data)), zap.Error(err))
	}
	return s, nil
}

// Serve serves until the file system has been unmounted.
func (s *Server) Serve() error {
	defer s.aside.Wait()
	s.buf = s.newBuffer()
	defer s.batch.Release()
	for taken := 0; ; taken++ {
		n, err := 0, error(errNothing)
		if taken < maxTaken {
			n, err = s.device.read(s.buf, false)
		}
		switch err {
		case nil:
		case errNothing:
			s.batch.Send()
			s.batch.Await(s.device.fd)
			taken = -1
			continue
		case errGone:
			return nil
		default:
			return block.Errorf(block.IO, "read a FUSE request: %w", err)
		}
		h, body, err := parse(s.buf[:n])
		if err != nil {
			return err
		}
		s.handle(h, body)
	}
}

// newBuffer makes a buffer that takes any message. The kernel fails a request that it
// cannot copy there. A process that is being killed takes no page faults: so there
// must be none to take.
func (s *Server) newBuffer() []byte {
	p := make([]byte, s.device.bufferBytes())
	if err := unix.Mlock(p); err != nil {
		s.unlocked.Do(func() {
			s.log.Warn("buffers for requests cannot be locked in memory: a request may fail when this process is killed", zap.Error(err))
		})
	}
	return p
}

// handle answers a request or sees to it that it will be answered.
func (s *Server) handle(h inHeader, body []byte) {
	switch h.opcode {
	case opRead, opWrite:
		switch {
		case h.node != fileNode || len(body) < ioBytes:
			s.refuse(h.unique, unix.EINVAL)
		case h.opcode == opRead:
			s.read(h.unique, body)
		default:
			s.write(h.unique, body)
		}
	case opFsync:
		s.sync(h.unique)
	case opFallocate:
		if len(body) < fallocateBytes {
			s.refuse(h.unique, unix.EINVAL)
			return
		}
		off, n, mode := binary.NativeEndian.Uint64(body[8:]), binary.NativeEndian.Uint64(body[16:]), binary.NativeEndian.Uint32(body[24:])
		began := time.Now()
		s.aside.Go(func() {
			err := s.fallocate(off, n, mode)
			s.refuse(h.unique, errnoOf(err))
			s.counters.add(opZero, n, began, err)
		})
	default:
		s.describe(h, body)
	}
}

// fallocate punches holes and zeroes ranges: discard and write zeroes of the
// loop device come as these. Both promise zeroes, which NBD's trim does not.
func (s *Server) fallocate(off, n uint64, mode uint32) error {
	info := s.export.Info()
	if off > info.SizeBytes || n > info.SizeBytes-off {
		return unix.EFBIG
	}
	if !info.Flags.Has(nbdclient.FlagSendWriteZeroes) {
		return unix.EOPNOTSUPP
	}
	var noHole bool
	switch mode {
	case fallocPunch:
	case fallocZero, fallocZero | fallocKeep:
		noHole = true
	default:
		return unix.EOPNOTSUPP
	}
	return s.export.WriteZeroes(context.Background(), off, n, noHole, false)
}

// refuse answers with an error, or with success and nothing more.
func (s *Server) refuse(unique uint64, errno unix.Errno) { s.sent(s.device.answerError(unique, errno)) }

func (s *Server) sent(err error) {
	if err != nil {
		s.log.Error(err.Error())
	}
}
