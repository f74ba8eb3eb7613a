package nbdclient

import (
	"bufio"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A batch that is awaited receives the replies to its small requests itself: then
// the thread that sent a request waits for its reply, instead of waking another
// for each, and takes all that have come before it sends again. The turn to receive
// passes from the connection's receiver to the batch and back:
//
//   - The batch says that it wants it, and looks for it from then on whenever it is
//     awaited, at least each wantedPoll. The receiver offers it between two replies.
//   - Whoever else makes a request on the connection withdraws an offer that was
//     not taken. One that was taken is served by the batch, in Await.
//   - The batch gives it back before it waits for the server in any other way: that
//     it reads what is sent, or that somebody else has sent. So the server always
//     finds its replies read. It also gives it back for large requests, whose data
//     would keep it from the next one.
const (
	// smallAfter is how many requests in a row must have been small, and have gone
	// to one connection, before a batch wants its turn.
	smallAfter = 32
	// wantedPoll is how long a batch that waits for the turn sleeps before it
	// looks for it again, in milliseconds.
	wantedPoll = 5
	// spinLimit bounds how long it looks again and again for what is to come,
	// before it sleeps; it does so only where what came lately took less than
	// spinAverage.
	spinLimit   = 150 * time.Microsecond
	spinAverage = 80 * time.Microsecond
	// waitCap is what a longer wait counts in the average.
	waitCap = time.Millisecond
	// longYield is how long others run on the processor it has yielded when they
	// are no part of what it waits for; then it does not look again and again for
	// busyPause: that would use up its share of the processor, and whoever has
	// used it up waits while others have theirs.
	longYield = 300 * time.Microsecond
	busyPause = 100 * time.Millisecond
)

// turn is of a connection.
type turn struct {
	wanted  atomic.Bool
	offered chan *bufio.Reader // one
	back    chan error         // one: how receiving ended, or nil
}

func newTurn() turn { return turn{offered: make(chan *bufio.Reader, 1), back: make(chan error, 1)} }

// pass gives the turn to who wants it and waits until it is back. The receiver calls
// it between two replies.
func (c *Conn) pass(r *bufio.Reader) (passed bool, err error) {
	if !c.turn.wanted.Load() {
		return false, nil
	}
	c.mu.Lock()
	give := c.turn.wanted.Load() && c.err == nil
	if give {
		c.turn.offered <- r
	}
	c.mu.Unlock()
	if !give {
		return false, nil
	}
	select {
	case err = <-c.turn.back:
		return true, err
	case <-c.dead:
	}
	select {
	case <-c.turn.offered: // nobody took it
		return true, c.Err()
	case err = <-c.turn.back: // who has it sees the end of the connection too
		return true, err
	}
}

// withdraw takes back an offer that was not taken; the caller holds c.mu and has
// made a request.
func (c *Conn) withdraw() {
	select {
	case <-c.turn.offered:
		c.turn.wanted.Store(false)
		c.turn.back <- nil
	default:
	}
}

// receiving is the turn that a batch has or wants.
type receiving struct {
	able   bool          // the batch is awaited
	conn   *Conn         // nil: it wants none
	socket *socket       // of conn
	in     *bufio.Reader // nil: it has not got it
	on     *Conn         // where the last request went
	small  int           // requests in a row that were small and went there

	fds     [2]unix.PollFd
	since   time.Time     // when it began to wait
	average time.Duration // of the waits lately
	busy    time.Time     // until when others have use for the processor
}

// note counts a request that is about to go to c, and gives the turn back or asks
// for it.
func (t *receiving) note(c *Conn, dataBytes int) {
	t.heard()
	if dataBytes > copiedBytes || t.on != c {
		t.on = c
		t.giveBack(nil)
		return
	}
	if t.small++; t.small < smallAfter || t.conn != nil || !t.able {
		return
	}
	if s, ok := c.conn.(*socket); ok {
		t.conn, t.socket = c, s
		c.turn.wanted.Store(true)
	}
}

// take takes the turn, if it is offered, and reports whether the batch has it.
func (t *receiving) take() bool {
	if t.conn == nil || t.in != nil {
		return t.in != nil
	}
	select {
	case t.in = <-t.conn.turn.offered:
		t.since = time.Time{}
		return true
	default:
	}
	if !t.conn.turn.wanted.Load() || t.conn.Err() != nil { // it was withdrawn
		t.giveBack(nil)
	}
	return false
}

// giveBack gives up the turn, or the wish for it, for some time.
func (t *receiving) giveBack(err error) {
	t.small = 0
	if t.conn == nil {
		return
	}
	c := t.conn
	c.mu.Lock() // the receiver offers nothing after this
	c.turn.wanted.Store(false)
	if t.in == nil {
		select { // it may have been offered meanwhile
		case t.in = <-c.turn.offered:
		default:
		}
	}
	c.mu.Unlock()
	if t.in != nil {
		c.turn.back <- err
	}
	t.conn, t.socket, t.in = nil, nil, nil
}

// receive takes the replies that are there and reports whether there were any. A
// reply that has begun to arrive it awaits.
func (t *receiving) receive() bool {
	if t.in.Buffered() == 0 && !t.socket.readable() {
		return false
	}
	for {
		if err := t.conn.receiveOne(t.in); err != nil {
			t.giveBack(err)
			return true
		}
		if t.in == nil || t.in.Buffered() == 0 {
			return true
		}
	}
}

// heard ends a wait.
func (t *receiving) heard() {
	if t.since.IsZero() {
		return
	}
	waited := min(time.Since(t.since), waitCap)
	t.average += (waited - t.average) / 8
	t.since = time.Time{}
}

// sleepy reports whether it has looked long enough, and should sleep.
func (t *receiving) sleepy() bool {
	now := time.Now()
	if t.since.IsZero() {
		t.since = now
	}
	if t.average > spinAverage || processors < 2 || now.Before(t.busy) {
		return true
	}
	if now.Sub(t.since) > min(spinLimit, 2*t.average) {
		return true
	}
	yield() // whoever has something to do comes first
	if later := time.Now(); later.Sub(now) > longYield {
		t.busy = later.Add(busyPause)
	}
	return false
}

var yield = func() { _, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// processors is how many threads run at once: on a single one nothing comes while
// somebody looks for it.
var processors = runtime.NumCPU()

// Await waits until something happens: something can be read from file, or a
// reply has been received, or it is time to look again. The caller looks at file
// without waiting, before and after. A batch that is awaited receives replies
// itself while its requests are small.
func (b *Batch) Await(file int) {
	t := &b.receiving
	t.able = true
	if !t.take() {
		timeout := -1
		if t.conn != nil {
			timeout = wantedPoll
		}
		t.fds[0] = unix.PollFd{Fd: int32(file), Events: unix.POLLIN}
		_, _ = unix.Poll(t.fds[:1], timeout) // interrupted or not, the caller looks
		return
	}
	if t.receive() {
		t.heard()
		return
	}
	if !t.sleepy() {
		return
	}
	t.fds = [2]unix.PollFd{{Fd: int32(file), Events: unix.POLLIN}, {Fd: int32(t.socket.fd), Events: unix.POLLIN}}
	_, _ = unix.Poll(t.fds[:], -1)
	if t.fds[1].Revents == 0 {
		t.heard()
	}
}

// Release gives the connections' replies back to their receivers. A batch is
// released when it is not awaited any more.
func (b *Batch) Release() {
	b.receiving.able = false
	b.receiving.giveBack(nil)
}

// lock takes c's lock for sending. Whoever has it may have to wait until replies
// are received.
func (b *Batch) lock(c *Conn) {
	if !c.sendMu.TryLock() {
		b.receiving.giveBack(nil)
		c.sendMu.Lock()
	}
}

// transmit sends what c holds back; the caller holds its lock. A server that does
// not read before its replies are read gets them read: a batch that has the turn,
// or could be offered it, gives it back before it waits.
func (b *Batch) transmit(c *Conn) {
	if t := &b.receiving; t.conn != nil {
		if t.conn == c && !c.ended {
			n := t.socket.writeNow(c.held)
			c.held = c.held[:copy(c.held, c.held[n:])]
			if len(c.held) == 0 {
				return
			}
		}
		t.giveBack(nil)
	}
	c.transmit(nil)
}
