package link

import (
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// TestLine holds the model of the link to hand-made figures.
func TestLine(t *testing.T) {
	l := line{spec: Spec{BitsPerS: 8e6, RoundTrip: 10 * time.Millisecond}} // a byte a microsecond
	at := func(us int) time.Time { return time.Unix(1, 0).Add(time.Duration(us) * time.Microsecond) }
	for _, c := range []struct{ now, bytes, due int }{
		{0, 1000, 6000},      // alone: 1 ms on the wire, 5 ms under way
		{100, 1000, 7000},    // behind the first
		{10000, 500, 15500},  // the wire was idle
		{10000, 1500, 17000}, // at once after it
	} {
		if due, ok := l.send(at(c.now), c.bytes); !ok || !due.Equal(at(c.due)) {
			t.Errorf("%d bytes at %d us are due at %v, %v, want %d us", c.bytes, c.now, due.Sub(at(0)), ok, c.due)
		}
	}
	sent := 0
	for {
		if _, ok := l.send(at(20000), 1000); !ok {
			break
		}
		sent += 1000
	}
	if sent < queueBytes || sent > queueBytes+2000 {
		t.Errorf("the queue took %d bytes, want %d", sent, queueBytes)
	}
}

// TestLinkIsAsSlowAsItSays sends over a real link: never faster than it says, and
// counted.
func TestLinkIsAsSlowAsItSays(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("skipped: wants root, to make network namespaces")
	}
	const bytes = 2 << 20
	spec := Spec{Name: "test", BitsPerS: 1e8, RoundTrip: 20 * time.Millisecond}
	l, err := New(t.Context(), fmt.Sprintf("hbt%d", os.Getpid()), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	server, err := l.Server.Listen("tcp", ServerAddress+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	go func() {
		c, err := server.Accept()
		if err != nil {
			return
		}
		_, _ = io.CopyN(c, zeros{}, bytes) // the other side counts
		_ = c.Close()
	}()
	before, err := l.Counts()
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	c, err := l.Worker.DialContext(t.Context(), "tcp", server.Addr().(*net.TCPAddr).String())
	if err != nil {
		t.Fatal(err)
	}
	connected := time.Since(started)
	n, err := io.Copy(io.Discard, c)
	if err != nil || n != bytes {
		t.Fatalf("got %d bytes, %v, want %d", n, err, bytes)
	}
	took := time.Since(started)
	if connected < spec.RoundTrip {
		t.Errorf("connected in %v, want at least a round trip of %v", connected, spec.RoundTrip)
	}
	if least := time.Duration(bytes * 8 * int64(time.Second) / spec.BitsPerS); took < least {
		t.Errorf("%d bytes took %v, want at least %v", bytes, took, least)
	}
	t.Logf("connected in %v, %d bytes in %v", connected, bytes, took)
	after, err := l.Counts()
	if got := after.Sub(before).ToWorker; err != nil || got < bytes || got > bytes*5/4 {
		t.Errorf("counted %d bytes, %v, want %d and headers", got, err, bytes)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
