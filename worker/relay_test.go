package worker

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/genetlink/genltest"
	"github.com/mdlayher/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
)

// relayKernel is the kernel's side of an nbd device whose monitor relays: it answers
// netlink requests and keeps the sockets that it is given.
type relayKernel struct {
	t      *testing.T
	sysfs  string
	mu     sync.Mutex
	socket *os.File      // the one it has
	given  chan struct{} // gets a value with each socket
}

func newRelayKernel(t *testing.T, attachment string) *relayKernel {
	t.Helper()
	k := &relayKernel{t: t, sysfs: t.TempDir(), given: make(chan struct{}, 16)}
	dir := nbdDriver{sysfs: k.sysfs}.sys("block", "nbd3")
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "backend"), []byte(attachment+"\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "pid"), []byte("1\n"), 0o600))
	return k
}

// answer is what the kernel does with a netlink request: it takes a socket when it
// has none that lives.
func (k *relayKernel) answer(m genetlink.Message, _ netlink.Message) ([]genetlink.Message, error) {
	if m.Header.Command == 0 {
		return nil, nil // the client reads the acknowledgement
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	a := decode(k.t, m.Data)
	if len(a.fds) != 1 {
		k.t.Errorf("command %d with %d sockets, want one (R3)", m.Header.Command, len(a.fds))
	}
	if k.socket == nil || isDead(k.socket) {
		fd, err := unix.FcntlInt(uintptr(a.fds[0]), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		k.socket = os.NewFile(uintptr(fd), "kernel")
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 60}); err != nil {
			return nil, err
		}
		k.given <- struct{}{}
	}
	if m.Header.Command == nbdCmdConnect {
		return []genetlink.Message{indexMessage(nbdCmdConnect, 3)}, nil
	}
	return nil, nil
}

// speak returns a connection over the socket that the kernel has.
func (k *relayKernel) speak() *nbdclient.Conn {
	k.t.Helper()
	select {
	case <-k.given:
	case <-time.After(time.Minute):
		k.t.Fatal("the kernel is given no socket")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	nc, err := net.FileConn(k.socket)
	must(k.t, err)
	info := nbdclient.Info{SizeBytes: testVolumeBytes, MaxPayloadBytes: block.MaxRequestBytes, Flags: nbdclient.FlagSendFlush | nbdclient.FlagSendFUA}
	c := nbdclient.NewConn(nc, nbdclient.Addr{Network: "unix"}, info, 0)
	k.t.Cleanup(func() { _ = c.Close(); _ = k.socket.Close() })
	return c
}

// giveUp shuts the kernel's socket down, as its timer does.
func (k *relayKernel) giveUp() {
	k.mu.Lock()
	defer k.mu.Unlock()
	_ = unix.Shutdown(int(k.socket.Fd()), unix.SHUT_RDWR)
}

// relayMonitor is a monitor of volume v that relays, with two connections.
func relayMonitor(t *testing.T, k *relayKernel, s *state, handed *os.File) *monitor {
	t.Helper()
	d := store{t.TempDir()}
	must(t, d.save(s))
	r := &running{agent: agent{d, s.Target}, state: s}
	m, err := r.newMonitor(testLink(t, k.answer), nil, zap.NewNop())
	must(t, err)
	// The server speaks over a unix socket, which would need no relay.
	m.relayed, m.sockets, m.driver.sysfs, m.index = &relayed{monitor: m, handed: handed}, make([]*os.File, 1), k.sysfs, 3
	t.Cleanup(m.dropAll)
	return m
}

// relayState is what an attach of volume v leaves.
func relayState(t *testing.T, f *fakeServer) *state {
	t.Helper()
	a, err := f.Attach(t.Context(), connect.NewRequest(&slackerv1.AttachRequest{Target: "v", Worker: "w"}))
	must(t, err)
	s := &state{Version: stateVersion, Target: "v", Nonce: "n", Phase: phaseAttached, Driver: driverNBD, Server: f.url, Connections: 2, RequestSeconds: 60, DeadSeconds: 300}
	must(t, s.fillFrom(a.Msg))
	return s
}

// TestRelayedDevice: the kernel has one socket, which outlives the connections to the
// server. When it gives the socket up while the server holds a write, it gets the
// next one once that write has landed (R2).
func TestRelayedDevice(t *testing.T) {
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	holding, held := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	t.Cleanup(release)
	var once atomic.Bool
	f.writing = func(_ context.Context, _ string, p []byte) {
		if p[0] == 1 && !once.Swap(true) {
			close(holding)
			<-held
		}
	}
	s := relayState(t, f)
	k := newRelayKernel(t, s.AttachmentID)
	m := relayMonitor(t, k, s, nil)
	_, _, err := m.connect(t.Context())
	must(t, err)
	c := k.speak()
	must(t, c.WriteAt(t.Context(), value(9), 4096, true))
	f.mu.Lock()
	for _, disconnect := range f.slots {
		disconnect(block.Errorf(block.Unavailable, "an upgrade"))
	}
	f.mu.Unlock()
	wantBlock(t, c, 4096, 9)

	gaveUp := make(chan error, 1)
	go func() { gaveUp <- c.WriteAt(context.Background(), value(1), 0, false) }()
	<-holding
	k.giveUp()
	if err := <-gaveUp; err == nil {
		t.Fatal("a write was answered that has not landed")
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if f, _, err := m.dial(over, 0); err != errUnderWay {
		t.Fatalf("a socket for the kernel while a write that came over the last is under way: %v, %v", f, err)
	}
	release()
	must(t, m.replace(t.Context(), 0))
	c = k.speak()
	must(t, c.WriteAt(t.Context(), value(1), 0, false)) // again
	must(t, c.WriteAt(t.Context(), value(2), 0, false))
	wantBlock(t, c, 0, 2)
}

func value(n byte) []byte { return bytes.Repeat([]byte{n}, 4096) }

func wantBlock(t *testing.T, c *nbdclient.Conn, off uint64, n byte) {
	t.Helper()
	got := make([]byte, 4096)
	if err := c.ReadAt(t.Context(), got, off); err != nil || !bytes.Equal(got, value(n)) {
		t.Fatalf("the block at %d holds %d (%v), want %d", off, got[0], err, n)
	}
}

// TestRelayTakenOver: a monitor that follows one which died gives the kernel nothing
// before the server has accepted a connection of every slot. One that follows a
// monitor which has paused its link goes on with the same socket.
func TestRelayTakenOver(t *testing.T) {
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	s := relayState(t, f)
	k := newRelayKernel(t, s.AttachmentID)
	first := relayMonitor(t, k, s, nil)
	_, _, err := first.connect(t.Context())
	must(t, err)
	c := k.speak()
	must(t, c.WriteAt(t.Context(), value(1), 0, false))

	handed, err := first.relayed.link.File()
	must(t, err)
	if !first.relayed.link.Pause(t.Context()) {
		t.Fatal("the link does not pause")
	}
	first.dropAll()
	second := relayMonitor(t, k, s, handed)
	long, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	must(t, second.replace(long, 0))
	if second.relayed.link == nil {
		t.Fatal("the socket that was handed over is not served")
	}
	wantBlock(t, c, 0, 1) // over the same socket
	if isDead(second.sockets[0]) {
		t.Error("the socket that was handed over counts as dead")
	}

	accept := make(chan struct{})
	f.opening = func(slot string) {
		if slot == "1" {
			<-accept
		}
	}
	second.dropAll() // it dies
	third := relayMonitor(t, k, s, nil)
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if f, _, err := third.dial(short, 0); err == nil {
		t.Fatalf("a socket for the kernel, %v, before all connections are accepted", f)
	}
	close(accept)
	must(t, third.replace(t.Context(), 0))
	wantBlock(t, k.speak(), 0, 1)
	k.giveUp()
	if err := awaitFor(t.Context(), time.Minute, func() (bool, error) { return isDead(third.sockets[0]), nil }); err != nil {
		t.Fatalf("the kernel's end of its socket is not seen: %v", err)
	}
}

// TestNeedsRelay: the kernel has the connections where they are in plaintext.
func TestNeedsRelay(t *testing.T) {
	for want, s := range map[bool][]state{
		true:  {{TLSCA: "ca", NBDAddresses: []string{"tcp://h:1"}}, {TLSCA: "ca", NBDAddresses: []string{"unix:///s", "tcp://h:1"}}},
		false: {{NBDAddresses: []string{"tcp://h:1"}}, {TLSCA: "ca", NBDAddresses: []string{"unix:///s"}}},
	} {
		for _, s := range s {
			if got := s.needsRelay(); got != want {
				t.Errorf("%v with CA %q: %v", s.NBDAddresses, s.TLSCA, got)
			}
		}
	}
}

// TestNBDDown: the device is disconnected only once the monitor has ended,
// which would connect it again; and not at all when it is gone already.
func TestNBDDown(t *testing.T) {
	for name, c := range map[string]struct{ connected, held, force bool }{
		"connected": {connected: true}, "disconnected": {}, "by force, and somebody has it open": {connected: true, held: true, force: true},
	} {
		var order []string
		d := nbdDriver{store: store{t.TempDir()}, sysfs: t.TempDir()}
		s := &state{Target: "v", AttachmentID: "att7"}
		dir := d.sys("block", "nbd3")
		must(t, os.MkdirAll(dir, 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "backend"), []byte("att7\n"), 0o600))
		if c.connected {
			must(t, os.WriteFile(filepath.Join(dir, "pid"), []byte("1\n"), 0o600))
		}
		ended := fakeMonitor(t, d.agent(s))
		kernel := func(m genetlink.Message, _ netlink.Message) ([]genetlink.Message, error) {
			if m.Header.Command == 0 {
				return nil, nil // the client reads the acknowledgement
			}
			select {
			case <-ended:
				order = append(order, "monitor ended")
			default:
			}
			order = append(order, fmt.Sprintf("command %d of nbd%d", m.Header.Command, decode(t, m.Data).numbers[nbdAttrIndex]))
			if c.held {
				return nil, nil
			}
			return nil, os.Remove(filepath.Join(dir, "pid"))
		}
		d.open = func() (*nbdLink, error) { return newNBDLink(genltest.Dial(genltest.ServeFamily(testFamily, kernel))) }
		must(t, d.down(t.Context(), s, c.force))
		if pid := d.agent(s).pid(); pid != 0 {
			t.Errorf("%s: the monitor lives on", name)
		}
		want := []string{"monitor ended", fmt.Sprintf("command %d of nbd3", nbdCmdDisconnect)}
		if !c.connected {
			want = nil
		}
		if !slices.Equal(order, want) {
			t.Errorf("%s: %v, want %v", name, order, want)
		}
	}
}

// fakeMonitor is a process that holds the lock of an agent until a signal ends
// it; then ended is closed.
func fakeMonitor(t *testing.T, a agent) (ended <-chan struct{}) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	must(t, cmd.Start())
	f, locked, err := a.lockFile(os.O_CREATE)
	if err != nil || !locked {
		t.Fatalf("lock of the agent: %v, %v", locked, err)
	}
	must(t, writeAt(f, fmt.Sprintln(cmd.Process.Pid)))
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // by a signal
		close(done)
		_ = f.Close()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, unless the test failed
		<-done
	})
	return done
}
