package nbdclient

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stream is what a Conn needs of its connection.
type stream interface {
	io.ReadWriteCloser
	// writeTwo writes p and then q, in one system call where that can be.
	writeTwo(p, q []byte) error
	// release is called once nobody reads or writes any more.
	release()
	SetWriteDeadline(t time.Time) error
}

// streamOf takes over a connection after its handshake: a socket as such, and
// what else there is (TLS, pipes) through the network poller.
func streamOf(nc net.Conn) stream {
	if c, ok := nc.(interface {
		SyscallConn() (syscall.RawConn, error)
	}); ok {
		if s := takeSocket(nc, c); s != nil {
			return s
		}
	}
	return polled{nc}
}

// ackTimeout sets when the kernel gives a new TCP connection up.
func ackTimeout(limit time.Duration) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
		})
		return errors.Join(err, cerr)
	}
}

// polled is a connection whose reads and writes wait in the network poller.
type polled struct{ net.Conn }

func (p polled) release() {}

func (p polled) writeTwo(a, b []byte) error {
	bufs := net.Buffers{a, b}
	_, err := bufs.WriteTo(p.Conn)
	return err
}

// socket is a connection whose reads and writes wait in the kernel. The thread
// that waits for a reply is woken by it, without a detour over the poller and
// the scheduler.
type socket struct {
	fd   int
	once sync.Once
}

// takeSocket returns nc as a socket and closes nc, or nil when it cannot.
func takeSocket(nc net.Conn, c interface {
	SyscallConn() (syscall.RawConn, error)
}) *socket {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	dup := -1
	if err := raw.Control(func(fd uintptr) { dup, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3) }); err != nil || dup < 0 {
		return nil
	}
	if err != nil || nc.Close() != nil || unix.SetNonblock(dup, false) != nil { // both descriptors share the mode
		_ = unix.Close(dup)
		return nil
	}
	return &socket{fd: dup}
}

func (s *socket) Read(p []byte) (int, error) {
	for {
		n, err := syscall.Read(s.fd, p)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// readable reports whether a Read would not wait.
func (s *socket) readable() bool {
	var b [1]byte
	_, _, err := syscall.Recvfrom(s.fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err != unix.EAGAIN && err != unix.EINTR
}

func (s *socket) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := syscall.Write(s.fd, p[done:]) // of a socket that is closed: EPIPE, without a signal
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// writeNow writes as much of p as can be without waiting and returns how much. What
// prevents more a Write meets too.
func (s *socket) writeNow(p []byte) int {
	n, err := unix.SendmsgN(s.fd, p, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if err != nil {
		return 0
	}
	return n
}

func (s *socket) writeTwo(p, q []byte) error {
	for len(p) > 0 {
		iov := [2]unix.Iovec{{Base: &p[0]}, {Base: &q[0]}}
		iov[0].SetLen(len(p))
		iov[1].SetLen(len(q))
		r, _, err := unix.Syscall(unix.SYS_WRITEV, uintptr(s.fd), uintptr(unsafe.Pointer(&iov[0])), 2)
		n := int(r)
		if err == unix.EINTR {
			continue
		}
		if err != 0 {
			return err
		}
		if n < len(p) {
			p = p[n:]
			continue
		}
		q, p = q[n-len(p):], nil
	}
	_, err := s.Write(q)
	return err
}

// Close ends the connection in both directions and wakes who waits on it.
func (s *socket) Close() error { return unix.Shutdown(s.fd, unix.SHUT_RDWR) }

func (s *socket) release() { s.once.Do(func() { _ = unix.Close(s.fd) }) }

func (s *socket) SetWriteDeadline(t time.Time) error {
	tv := unix.NsecToTimeval(max(time.Until(t), time.Millisecond).Nanoseconds())
	return unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
}
