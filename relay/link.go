package relay

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
)

// maxHeldBytes bounds the buffers of a link's requests (R5): the longest request
// fits.
const maxHeldBytes = 2 * block.MaxRequestBytes

// Pair makes a socket pair: an end for the kernel and one to serve.
func Pair() (kernel, ours *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, block.Errorf(block.IO, "make a socket pair: %w", err)
	}
	kernel = os.NewFile(uintptr(fds[0]), "kernel")
	if err := unix.SetNonblock(fds[1], true); err != nil { // for the network poller
		_ = kernel.Close()
		_ = unix.Close(fds[1])
		return nil, nil, block.Errorf(block.IO, "make a socket pair: %w", err)
	}
	return kernel, os.NewFile(uintptr(fds[1]), "relay"), nil
}

// Link serves one socket of the kernel. Its methods may be called from any
// goroutine.
type Link struct {
	session *nbdclient.Session
	batch   *nbdclient.Batch // of the reader
	log     *zap.Logger
	room    *semaphore.Weighted // maxHeldBytes
	free    operations

	socket *os.File // it stays open until drained
	in     input

	pausing atomic.Bool
	paused  bool           // the reader has ended between two requests; set before drained is closed
	under   sync.WaitGroup // operations; only the reader adds
	drained chan struct{}

	answering sync.Mutex // held while one answer goes out
	closed    bool       // nothing is answered any more
}

// Serve serves the kernel whose socket's other end is ours, which it takes over,
// and returns at once. The session outlives the link.
func Serve(session *nbdclient.Session, ours *os.File, log *zap.Logger) *Link {
	l := &Link{session: session, batch: session.NewBatch(), log: log, room: semaphore.NewWeighted(maxHeldBytes),
		socket: ours, drained: make(chan struct{})}
	l.in = input{link: l, buf: make([]byte, inputBytes)}
	go l.run()
	return l
}

// run reads until the link ends or pauses, and then waits until it is drained.
func (l *Link) run() {
	err := l.read()
	l.batch.Send()
	if !errors.Is(err, errPaused) {
		if !errors.Is(err, io.EOF) {
			l.log.Warn("the kernel's connection has ended", zap.Error(err))
		}
		l.Close()
	}
	l.under.Wait()
	l.paused = errors.Is(err, errPaused)
	l.answering.Lock() // whoever closes the link meanwhile finds it open
	l.closed = true
	_ = l.socket.Close() // of a paused link there is another descriptor
	l.answering.Unlock()
	close(l.drained)
}

// Drained is closed when nothing that came over the link is under way any more
// (R2).
func (l *Link) Drained() <-chan struct{} { return l.drained }

// Close ends the link: the kernel sees a dead connection. What is under way goes on
// without being answered (R6).
func (l *Link) Close() {
	l.answering.Lock()
	defer l.answering.Unlock()
	if !l.closed {
		l.shut()
	}
}

// shut ends the connection; the caller holds answering, and the link is not closed.
func (l *Link) shut() {
	l.closed = true
	_ = unix.Shutdown(int(l.socket.Fd()), unix.SHUT_RDWR) // or the kernel has done that
}

// File returns another descriptor of the link's socket, with which somebody else can
// serve the kernel after the link was paused.
func (l *Link) File() (*os.File, error) {
	l.answering.Lock()
	defer l.answering.Unlock()
	if l.closed {
		return nil, block.Errorf(block.Unavailable, "the kernel's connection has ended")
	}
	fd, err := unix.FcntlInt(l.socket.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, block.Errorf(block.IO, "duplicate the kernel's connection: %w", err)
	}
	return os.NewFile(uintptr(fd), "relay"), nil
}

// Pause ends the link between two requests, all answered, and leaves the socket as it
// is (R4). It reports false, and has closed the link, when that takes longer than
// ctx, or the link has ended already.
func (l *Link) Pause(ctx context.Context) bool {
	l.pausing.Store(true)
	_ = l.socket.SetReadDeadline(time.Unix(1, 0)) // wakes the reader, unless it has ended
	select {
	case <-l.drained:
		return l.paused
	case <-ctx.Done():
		l.Close()
		return false
	}
}

// answer sends an answer to the kernel.
func (l *Link) answer(p []byte) {
	l.answering.Lock()
	defer l.answering.Unlock()
	if l.closed {
		return
	}
	if _, err := l.socket.Write(p); err != nil { // the kernel has given the socket up
		l.shut()
	}
}
