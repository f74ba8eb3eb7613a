package worker

import (
	"net"
	"os"
	"testing"
	"time"
)

// TestWiresOfDeadSockets: a monitor that takes over finds which sockets of the one
// before live, whichever way the others have died, over IPv4 and IPv6 (invariant 9).
func TestWiresOfDeadSockets(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Logf("no sockets at %s here: %v", host, err)
			continue
		}
		pair := func() (*os.File, net.Conn) {
			t.Helper()
			c, err := net.Dial("tcp", l.Addr().String())
			must(t, err)
			far, err := l.Accept()
			must(t, err)
			f, err := socketFile(c)
			must(t, err)
			t.Cleanup(func() { _ = f.Close(); _ = far.Close() })
			return f, far
		}
		alive, _ := pair()
		closed, far := pair()
		reset, farther := pair()
		d := store{t.TempDir()}
		saved := make([]wire, 4)
		for slot, f := range []*os.File{alive, closed, reset} {
			var ok bool
			if saved[slot], ok = wireOf(f); !ok {
				t.Fatalf("socket %d has no ends", slot)
			}
		}
		must(t, d.saveWires("v", saved))
		must(t, far.Close())
		must(t, farther.(*net.TCPConn).SetLinger(0))
		must(t, farther.Close())
		wires := d.loadWires("v", 5)
		if wires[0] == (wire{}) || wires[3] != (wire{}) || wires[4] != (wire{}) {
			t.Errorf("loaded %v, want three that are known", wires)
		}
		want := []bool{true, false, false, false, false}
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			there, err := aliveWires()
			must(t, err)
			same := true
			for slot, w := range wires {
				same = same && there[w] == want[slot]
			}
			if same {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("at %s of %v live %v, want %v", host, wires, there, want)
			}
		}
		must(t, l.Close())
	}
	// What is no TCP socket is unknown.
	ours, theirs, err := socketPair()
	must(t, err)
	defer func() { _ = ours.Close(); _ = theirs.Close() }()
	if w, ok := wireOf(theirs); ok {
		t.Errorf("a unix socket has the ends %v", w)
	}
}

// TestMissedDeaths: of the sockets of a former monitor those are replaced that do
// not live or are not known.
func TestMissedDeaths(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	c, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	far, err := l.Accept()
	must(t, err)
	f, err := socketFile(c)
	must(t, err)
	defer func() { _ = f.Close() }()
	d := store{t.TempDir()}
	w, _ := wireOf(f)
	must(t, d.saveWires("v", []wire{w, {}}))
	m := &monitor{running: &running{agent: agent{d, "v"}}, sockets: make([]*os.File, 2)}
	if got := m.missed(); got[0] || !got[1] {
		t.Errorf("missed %v while one lives, want the unknown one", got)
	}
	must(t, far.Close())
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if got := m.missed(); got[0] && got[1] {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the end of a socket is not seen")
		}
	}
}
