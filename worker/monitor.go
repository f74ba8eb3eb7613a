package worker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
)

const (
	monitorTick     = time.Second // how often it looks, announcements aside
	monitorBackoff  = 50 * time.Millisecond
	monitorMaxWait  = 2 * time.Second
	adoptionTimeout = 5 * time.Second
	// complaintInterval is how often it logs that a server is still away.
	complaintInterval = time.Minute
)

// monitor keeps the sockets of one nbd device connected. It holds a
// descriptor of each socket only to see it die; the kernel has its own. Where the
// kernel cannot have the connections there is one socket, and relayed is its other
// end.
type monitor struct {
	*running
	driver  nbdDriver
	link    *nbdLink
	index   uint32
	relayed *relayed   // nil: the kernel has the connections
	sockets []*os.File // by slot; nil: connected by a former monitor, if at all
	wires   []wire     // by slot, of any monitor
	names   []nbdclient.SlotName
	log     *zap.Logger
}

// RunMonitor is the agent of the nbd driver. It connects the device unless it
// is connected already, and returns when the device is gone. On a signal its
// standby takes over, unless the attachment is being undone.
func RunMonitor(args AgentArgs, logger *zap.Logger) error {
	kernel, kerr := openLinks() // before the word to begin: the server is still making the attachment
	defer kernel.close()
	r, err := becomeAgent(args)
	if err == nil {
		err = kerr
	}
	if err == nil {
		err = r.monitor(kernel, nil, logger)
	}
	if r != nil {
		r.report("", err)
	}
	return err
}

// links are a monitor's connections to the kernel: one for what it asks, and one
// over which it hears of dead sockets. The zero links are none.
type links struct{ requests, events *nbdLink }

func openLinks() (l links, err error) {
	if l.requests, err = openNBDLink(); err != nil {
		return l, err
	}
	if l.events, err = openNBDLink(); err == nil {
		err = l.events.listen()
	}
	if err != nil {
		l.close()
	}
	return l, err
}

// close may be called twice.
func (l links) close() {
	for _, link := range []*nbdLink{l.requests, l.events} {
		if link != nil {
			link.close()
		}
	}
}

// newMonitor returns a monitor that has nothing yet. A former one has handed over the
// socket handed, if it is not nil.
func (r *running) newMonitor(kernel *nbdLink, handed *os.File, logger *zap.Logger) (*monitor, error) {
	n := r.state.Connections
	if n < 1 || n > nbdclient.MaxConnections {
		return nil, block.Errorf(block.Corrupt, "monitor of %s: state names %d connections", r.target, n)
	}
	m := &monitor{running: r, driver: nbdDriver{store: r.store}, link: kernel, log: logger.With(zap.String("target", r.target))}
	if r.state.needsRelay() {
		m.relayed = &relayed{monitor: m, handed: handed}
		n = 1 // R3
	}
	m.sockets, m.wires, m.names = make([]*os.File, n), make([]wire, n), make([]nbdclient.SlotName, n)
	return m, nil
}

func (r *running) monitor(kernel links, handed *os.File, logger *zap.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer func() { stop() }()
	m, err := r.newMonitor(kernel.requests, handed, logger)
	if err != nil {
		return err
	}
	defer m.dropAll()
	index, connected, err := m.driver.index(r.state.AttachmentID)
	var missed []bool // of the sockets of a former monitor, by slot
	steps := ""       // how long it took to connect
	if err == nil && !connected {
		index, steps, err = m.connect(ctx)
	} else if err == nil {
		missed = m.missed()
	}
	if err != nil {
		return err
	}
	m.index = index
	r.report(fmt.Sprintf("nbd%d%s", index, steps), nil)
	dead := make(chan struct{}, 1)
	ended := make(chan struct{})
	go func() { defer close(ended); m.announce(kernel.events, dead) }()
	keeper := r.keepStandby(briefing{Version: standbyVersion, Role: AgentMonitor}, nil, standbyDelay, m.log)
	for {
		err = m.watch(ctx, dead, missed)
		missed = nil
		if ctx.Err() == nil || !r.wanted() {
			keeper.dismiss()
			break
		}
		if herr := m.giveWay(keeper); herr == nil {
			break
		} else {
			m.log.Warn("stay: the standby cannot take over", zap.Error(herr))
		}
		stop()
		ctx, stop = signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	}
	kernel.close()
	<-ended
	return err
}

// giveWay makes the standby take over when this process ends.
func (m *monitor) giveWay(k *keeper) error {
	if m.relayed != nil {
		return m.relayed.giveWay(k)
	}
	return k.handOver()
}

// announce passes on that a socket of the device has died.
func (m *monitor) announce(events *nbdLink, dead chan<- struct{}) {
	for {
		indexes, err := events.linkDead()
		if err != nil {
			return // closed, or overrun: the tick sees it too
		}
		for _, index := range indexes {
			if index == m.index {
				select {
				case dead <- struct{}{}:
				default:
				}
			}
		}
	}
}

// missed tells which sockets of a former monitor are dead or not known to live:
// nobody may have been there to hear of it (invariant 9). What dies from now on is
// announced.
func (m *monitor) missed() []bool {
	if m.relayed != nil {
		return []bool{true} // it ended with its monitor, or was handed over
	}
	alive, err := aliveWires()
	if err != nil {
		m.log.Warn("which sockets live is not known: all are replaced", zap.Error(err))
	}
	missed := make([]bool, len(m.sockets))
	m.wires = m.store.loadWires(m.target, len(m.sockets))
	for slot, w := range m.wires {
		missed[slot] = !alive[w]
	}
	return missed
}

// watch replaces dead sockets until the device is gone, first those that were
// missed.
func (m *monitor) watch(ctx context.Context, dead <-chan struct{}, missed []bool) error {
	tick := time.NewTicker(monitorTick)
	defer tick.Stop()
	for ; ; missed = nil {
		announced := false
		if missed == nil {
			select {
			case <-ctx.Done():
				return nil
			case <-dead:
				announced = true
			case <-tick.C:
			}
		}
		_, connected, err := m.driver.index(m.state.AttachmentID)
		if err != nil {
			return err
		}
		if !connected || !m.current() {
			return nil
		}
		for slot, socket := range m.sockets {
			// Which of the sockets it has not made itself has died a monitor
			// cannot know: it replaces them all, and the server fences each old one.
			if (socket == nil && (announced || missed != nil && missed[slot])) || (socket != nil && isDead(socket)) {
				if err := m.replace(ctx, slot); err != nil {
					return err
				}
			}
		}
	}
}

// isDead reports whether either side has shut a socket down.
func isDead(f *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
}

// connect makes the device, all connections at once, and says how long each step
// took.
func (m *monitor) connect(ctx context.Context) (index uint32, steps string, err error) {
	begun := time.Now()
	var info nbdclient.Info
	dials, dctx := errgroup.WithContext(ctx)
	for slot := range m.sockets {
		dials.Go(func() error {
			f, got, err := m.dial(dctx, slot)
			m.sockets[slot] = f
			if slot == 0 {
				info = got
			}
			return err
		})
	}
	err = dials.Wait()
	if m.sockets[0] != nil && m.state.Connections > 1 && !info.Flags.Has(nbdclient.FlagCanMultiConn) {
		err = block.Errorf(block.Unsupported, "attach %s: the server takes one connection only, want %d", m.target, m.state.Connections)
	}
	if err != nil {
		return 0, "", err
	}
	dialled := time.Now()
	if m.state.ReadOnly {
		info.Flags |= nbdclient.FlagReadOnly
	}
	m.note()
	index, err = m.link.connect(nbdConfig{sizeBytes: info.SizeBytes, serverFlags: uint64(info.Flags), requestTimeout: m.state.requestTimeout(),
		deadFor: m.state.deadTimeout(), backend: m.state.AttachmentID}, m.sockets)
	return index, stepsOf("process ready", begun.Sub(m.born), "NBD handshake", dialled.Sub(begun), "connect the kernel", time.Since(dialled)), err
}

// dial connects a slot to the first address that answers, and returns a socket for
// the kernel.
func (m *monitor) dial(ctx context.Context, slot int) (*os.File, nbdclient.Info, error) {
	if m.relayed != nil {
		return m.relayed.dial(ctx)
	}
	err := error(block.Errorf(block.Invalid, "%s has no NBD address", m.target))
	for _, a := range m.state.NBDAddresses {
		addr, aerr := nbdclient.ParseAddr(a)
		if aerr != nil {
			return nil, nbdclient.Info{}, aerr
		}
		name := m.names[slot].Next(m.state.ExportName, slot)
		conn, info, derr := nbdclient.DialKernel(ctx, addr, name, nbdclient.Options{DialTimeout: m.state.requestTimeout()})
		if derr == nil {
			f, ferr := socketFile(conn)
			return f, info, ferr
		}
		err = derr
	}
	return nil, nbdclient.Info{}, err
}

// replace connects a slot anew, however long it takes, and hands the socket to
// the kernel. It returns an error when there is nothing more to watch.
func (m *monitor) replace(ctx context.Context, slot int) error {
	begun, complaint := time.Now(), time.Time{}
	for wait := monitorBackoff; ; wait = min(2*wait, monitorMaxWait) {
		err := m.renew(ctx, slot)
		if err == nil {
			m.log.Info("socket replaced", zap.Int("slot", slot), zap.Duration("after", time.Since(begun)))
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		if _, connected, ierr := m.driver.index(m.state.AttachmentID); ierr != nil || !connected || !m.current() {
			return joinLine(ierr, err)
		}
		if time.Since(complaint) > complaintInterval { // the log lies in memory
			complaint = time.Now()
			m.log.Warn("cannot replace socket", zap.Int("slot", slot), zap.Error(err))
		}
		if err == errUnderWay {
			wait = monitorBackoff // it has waited already
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait/2 + rand.N(wait)):
		}
	}
}

// renew gives the kernel a new socket for a slot.
func (m *monitor) renew(ctx context.Context, slot int) error {
	if m.relayed != nil && m.relayed.handed != nil {
		return m.relayed.resume(ctx)
	}
	f, info, err := m.dial(ctx, slot)
	if err != nil {
		return err
	}
	if info.SizeBytes < m.state.SizeBytes {
		err = block.Errorf(block.Invalid, "export has now %d bytes, want %d", info.SizeBytes, m.state.SizeBytes)
	} else {
		err = m.handOver(ctx, slot, f)
	}
	if err != nil {
		_ = f.Close()
	}
	return err
}

// handOver gives the kernel f in place of a dead socket. The kernel says
// nothing when it knows of no dead one yet. But a socket that it has taken has
// its send timeout set, which shows on our descriptor of the same socket.
func (m *monitor) handOver(ctx context.Context, slot int, f *os.File) error {
	for deadline := time.Now().Add(adoptionTimeout); ; {
		if err := m.link.reconfigure(m.index, m.state.AttachmentID, []*os.File{f}); err != nil {
			return err
		}
		timeout, err := unix.GetsockoptTimeval(int(f.Fd()), unix.SOL_SOCKET, unix.SO_SNDTIMEO)
		if err != nil {
			return block.Errorf(block.IO, "look at a socket of nbd%d: %w", m.index, err)
		}
		if timeout.Sec == int64(m.state.RequestSeconds) {
			if old := m.sockets[slot]; old != nil {
				_ = old.Close()
			}
			m.sockets[slot] = f
			m.note()
			return nil
		}
		if time.Now().After(deadline) {
			return block.Errorf(block.Busy, "nbd%d takes no socket in place of a dead one", m.index)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// note writes down the sockets for the next monitor. Without that it replaces more
// than it had to.
func (m *monitor) note() {
	if m.relayed != nil {
		return // the socket pair has no name, and ends with this monitor
	}
	for slot, f := range m.sockets {
		if f != nil {
			m.wires[slot], _ = wireOf(f)
		}
	}
	if err := m.store.saveWires(m.target, m.wires); err != nil {
		m.log.Warn("the sockets are not written down", zap.Error(err))
	}
}

// dropAll closes the monitor's descriptors; the kernel keeps its own.
func (m *monitor) dropAll() {
	for _, f := range m.sockets {
		if f != nil {
			_ = f.Close()
		}
	}
	if m.relayed != nil {
		m.relayed.end()
	}
}
