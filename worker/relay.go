package worker

import (
	"context"
	"os"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
	"github.com/slackerd/slacker/relay"
)

// pauseLimit is how long a monitor that is to change its process waits for what is
// in flight. What takes longer the kernel sends again, when its timer fires.
const pauseLimit = time.Second

// closeLimit bounds the goodbye to a server that does not read it: the end of the
// process is one too.
const closeLimit = time.Second

// errUnderWay: the kernel gets no new socket yet.
var errUnderWay = block.Errorf(block.Busy, "what was in flight on the kernel's former socket waits for the server")

// needsRelay reports whether the kernel cannot have the connections to the server,
// since they speak TLS.
func (s *state) needsRelay() bool {
	if s.secure() == nil {
		return false
	}
	for _, a := range s.NBDAddresses {
		if addr, err := nbdclient.ParseAddr(a); err != nil || addr.Network == "tcp" {
			return true
		}
	}
	return false // unix sockets stay in plaintext
}

// relayed is a device whose monitor is the server of the kernel: a session with the
// server, and a link with the kernel.
type relayed struct {
	monitor *monitor
	session *nbdclient.Session
	link    *relay.Link
	handed  *os.File // the other end of the kernel's socket, which a former monitor has paused
}

// open connects to the server. A monitor that is not the first of its device takes
// no request before every slot is connected: with that the server has fenced all
// that a former one had sent.
func (r *relayed) open(ctx context.Context) error {
	if r.session != nil {
		return nil
	}
	m := r.monitor
	opts := m.sessionOptions(m.log)
	// The kernel gives a request up, too, when it has waited for so long. And a
	// connection to a host that says nothing at all is given up before.
	opts.Conn.StallTimeout, opts.Conn.AckTimeout = m.state.requestTimeout(), m.state.requestTimeout()/2
	session, err := nbdclient.OpenSession(ctx, m.state.NBDAddresses, m.state.ExportName, opts)
	if err != nil {
		return err
	}
	if err := session.AwaitSlots(ctx); err != nil {
		return joinLine(err, session.Close())
	}
	r.session = session
	return nil
}

// dial returns a socket for the kernel. Before, it waits until nothing is under way
// that came over the last one (R2): for as long as a request may take, and is then to
// be called again.
func (r *relayed) dial(ctx context.Context) (*os.File, nbdclient.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, r.monitor.state.requestTimeout())
	defer cancel()
	if err := r.open(ctx); err != nil {
		return nil, nbdclient.Info{}, err
	}
	if r.link != nil {
		r.link.Close()
		select {
		case <-r.link.Drained():
		case <-ctx.Done():
			return nil, nbdclient.Info{}, errUnderWay
		}
	}
	kernel, ours, err := relay.Pair()
	if err != nil {
		return nil, nbdclient.Info{}, err
	}
	r.link = relay.Serve(r.session, ours, r.monitor.log)
	return kernel, r.session.Info(), nil
}

// resume goes on with the socket that a former monitor has paused.
func (r *relayed) resume(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.monitor.state.requestTimeout())
	defer cancel()
	if err := r.open(ctx); err != nil {
		return err
	}
	r.link, r.handed = relay.Serve(r.session, r.handed, r.monitor.log), nil
	var err error
	r.monitor.sockets[0], err = r.link.File() // not the kernel's end, but it shows as well that that has died
	return err
}

// handedOver returns the socket that a monitor has handed over to its standby, if it
// has paused it. If it has not, the kernel sees it die.
func handedOver(b briefing, last string) *os.File {
	if !b.Link {
		return nil
	}
	f := os.NewFile(standbyDeviceFD, "relay")
	if last == standbyPaused {
		return f
	}
	_ = unix.Shutdown(standbyDeviceFD, unix.SHUT_RDWR)
	_ = f.Close()
	return nil
}

// giveWay makes the standby take over when this process ends, with the socket
// itself if what is in flight is done soon.
func (r *relayed) giveWay(k *keeper) error {
	if r.link == nil {
		return k.handOver()
	}
	f, err := r.link.File()
	if err != nil {
		return k.handOver() // it has ended
	}
	defer func() { _ = f.Close() }()
	b := k.briefing
	b.Link = true
	line, err := k.handOverTo(b, f)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), pauseLimit)
	defer cancel()
	if !r.link.Pause(ctx) {
		r.monitor.log.Warn("what is in flight takes long: the kernel is to send it again")
		return nil
	}
	if _, err := line.Write([]byte(standbyPaused)); err != nil { // it has died, and another is there at best
		r.monitor.log.Warn("the standby does not hear that the link is paused", zap.Error(err))
	}
	return nil
}

// end closes the link and then the session, so that what is in flight is not answered
// with its end (R6).
func (r *relayed) end() {
	if r.link != nil {
		r.link.Close()
	}
	if r.session == nil {
		return
	}
	closed := make(chan struct{})
	go func() { defer close(closed); _ = r.session.Close() }() // what is in flight is lost either way
	select {
	case <-closed:
	case <-time.After(closeLimit):
	}
}
