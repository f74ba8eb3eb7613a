package nbdserver

import (
	"errors"
	"net"
	"syscall"

	"github.com/slackerd/slacker/block"
	"golang.org/x/sys/unix"
)

// Lender is a Device that can answer a READ with pages that it has in memory
// instead of a copy of them.
type Lender interface {
	// LendNow is ReadNow into the pipe of that descriptor, by reference. It must
	// not wait for room in the pipe. When it returns false the pipe may hold any
	// part of the data, and is thrown away with it. The pages stay what they are
	// for as long as anybody refers to them.
	LendNow(pipe int, offBytes, lengthBytes uint64) bool
}

const (
	// lendBytes is the shortest READ that is lent: a shorter one is copied
	// sooner than lent.
	lendBytes = 64 << 10
	pageBytes = 4 << 10
	// pipeBytes is the capacity that is asked for; it bounds what is lent.
	pipeBytes = 1 << 20
	// sendBytes is the send buffer of a socket that lends (the kernel doubles
	// it): room for a reply to be prepared while the one before it is taken.
	// Borrowed pages in it take no memory.
	sendBytes = 1 << 20
)

// lending is the means of a connection to send borrowed pages: a pipe, since
// that is what the kernel moves pages into a socket from. It belongs to the
// reading goroutine.
type lending struct {
	dev   Lender
	raw   syscall.RawConn
	r, w  int // the pipe, -1 when there is none
	slots int // pages that fit
	left  int // bytes in the pipe
	fails int // in a row
	err   error
	move  func(fd uintptr) bool
	head  [headBytes]byte
}

// maxLendFails is how many reads in a row may be refused before lending rests,
// and lendRest for how many reads it does.
const (
	maxLendFails = 4
	lendRest     = 64
)

// lendFrom makes the connection lend, if its device and its socket can.
func (c *conn) lendFrom() {
	c.lend = lending{r: -1, w: -1}
	dev, ok := c.dev.(Lender)
	if !ok || c.nc != c.raw {
		return
	}
	switch s := c.nc.(type) {
	case *net.UnixConn:
		c.lend.raw, c.lend.err = s.SyscallConn()
	case *net.TCPConn:
		c.lend.raw, c.lend.err = s.SyscallConn()
	default:
		return
	}
	if c.lend.err == nil {
		c.lend.dev = dev
	}
	c.lend.move = c.lend.moveSome
}

// readLent tries to answer a READ with borrowed pages.
func (c *conn) readLent(r *request) bool {
	n := &c.lend
	pages := int((r.lengthBytes + pageBytes - 1) / pageBytes)
	if n.dev == nil || r.lengthBytes < lendBytes || r.lengthBytes > pipeBytes {
		return false
	}
	if n.fails < 0 {
		n.fails++
		return false
	}
	if !n.open() || pages > n.slots {
		return false
	}
	head := c.headers.appendDataHead(n.head[:0], r)
	inPipe := pages < n.slots
	if inPipe {
		if m, err := unix.Write(n.w, head); err != nil || m != len(head) {
			n.shut()
			return false
		}
	}
	if !n.dev.LendNow(n.w, r.offBytes, r.lengthBytes) {
		n.shut()
		if n.fails++; n.fails >= maxLendFails {
			n.fails = -lendRest
		}
		return false
	}
	n.fails = 0
	n.left = int(r.lengthBytes)
	if inPipe {
		n.left += len(head)
		head = nil
	}
	if _, ok := c.result(r, nil); !ok {
		n.shut()
		return true
	}
	c.out.exclusive(func() error { return n.send(c, head) })
	return true
}

// open makes the pipe if there is none.
func (n *lending) open() bool {
	if n.r >= 0 {
		return true
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return false
	}
	n.r, n.w = fds[0], fds[1]
	// Refused to a user who has many pipes: then less is lent.
	_, _ = unix.FcntlInt(uintptr(n.w), unix.F_SETPIPE_SZ, pipeBytes)
	size, err := unix.FcntlInt(uintptr(n.w), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		n.shut()
		return false
	}
	n.slots = size / pageBytes
	_ = n.raw.Control(widen) // fails when the socket is closed, which sending meets
	return true
}

// widen makes the send buffer of a unix socket larger. TCP sizes its own.
func widen(fd uintptr) {
	if domain, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain != unix.AF_UNIX {
		return
	}
	if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBytes) != nil {
		// Bounded by net.core.wmem_max then; a smaller one works too.
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, sendBytes)
	}
}

// shut closes the pipe with what is in it.
func (n *lending) shut() {
	if n.r >= 0 {
		// What is lost with them is meant to be.
		_, _ = unix.Close(n.r), unix.Close(n.w)
		n.r, n.w = -1, -1
	}
}

// send writes head and then what is in the pipe to the socket.
func (n *lending) send(c *conn, head []byte) error {
	if len(head) > 0 {
		if _, err := c.nc.Write(head); err != nil {
			return err
		}
	}
	n.err = nil
	for n.left > 0 && n.err == nil {
		if err := n.raw.Write(n.move); err != nil {
			n.err = err
		}
	}
	if n.err != nil {
		n.shut()
	}
	return n.err
}

// moveSome moves from the pipe to the socket and returns false when the socket
// is full.
func (n *lending) moveSome(fd uintptr) bool {
	for n.left > 0 {
		m, err := unix.Splice(n.r, nil, int(fd), nil, n.left, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return false
		case err != nil:
			n.err = err
			return true
		case m == 0:
			n.err = block.Errorf(block.Internal, "a pipe of %d borrowed bytes is empty", n.left)
			return true
		default:
			n.left -= int(m)
		}
	}
	return true
}
