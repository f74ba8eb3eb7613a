package nbdserver_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

// handover makes servers of one backend that follow each other on one listener.
type handover struct {
	t       *testing.T
	backend nbdserver.Backend
	addr    string
	socket  func() net.Listener // another descriptor of the listening socket
	server  *nbdserver.Server
	served  chan error
}

func newHandover(t *testing.T, backend nbdserver.Backend) *handover {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	h := &handover{t: t, backend: backend, addr: "tcp://" + l.Addr().String(), socket: func() net.Listener {
		again, err := net.FileListener(f)
		if err != nil {
			t.Fatal(err)
		}
		return again
	}}
	_ = l.Close()
	h.start(nil)
	t.Cleanup(func() { h.server.Close(); <-h.served; _ = f.Close() })
	return h
}

func (h *handover) start(handed []nbdserver.Handed) {
	h.t.Helper()
	server, err := nbdserver.New(h.backend, nbdserver.Options{Limits: nbdserver.DefaultLimits()})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, c := range handed {
		if err := server.Adopt(c); err != nil {
			h.t.Error(err)
		}
	}
	h.server, h.served = server, make(chan error, 1)
	l := h.socket()
	go func() { h.served <- server.Serve(context.Background(), l) }()
}

// next replaces the server and returns how many connections moved.
func (h *handover) next() int {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	handed := h.server.Handover(ctx)
	if err := <-h.served; err != nil {
		h.t.Error(err)
	}
	h.start(handed)
	return len(handed)
}

// TestHandover replaces the server again and again under clients whose
// connections are never replaced: one lost or doubled byte would end them.
func TestHandover(t *testing.T) {
	h := newHandover(t, nbdtest.NewMemory("v", nbdtest.DefaultInfo(16<<20)))
	const clients, depth = 3, 4
	var stop atomic.Bool
	var wg sync.WaitGroup
	var conns []*nbdclient.Conn
	for i := range clients {
		c, err := nbdclient.Dial(t.Context(), h.addr, "v", nbdclient.DefaultOptions())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		for j := range depth {
			wg.Go(func() { roundTrips(t, c, uint64(i*depth+j), &stop) })
		}
	}
	for range 20 {
		if n := h.next(); n != clients {
			t.Errorf("%d connections were handed over, want %d", n, clients)
		}
		time.Sleep(10 * time.Millisecond) // let them work; nothing depends on it
	}
	stop.Store(true)
	wg.Wait()
	for _, c := range conns {
		if err := c.Err(); err != nil {
			t.Error(err)
		}
		_ = c.Close()
	}
}

// roundTrips writes and reads back requests of many lengths in a MiB of its own.
func roundTrips(t *testing.T, c *nbdclient.Conn, place uint64, stop *atomic.Bool) {
	for i := uint64(0); !stop.Load(); i++ {
		n := []int{512, 4096, 60 << 10, 300 << 10}[i%4]
		p := bytes.Repeat(binary.LittleEndian.AppendUint64(nil, place<<32|i), n/8)
		got := make([]byte, n)
		err := c.WriteAt(t.Context(), p, place<<20, i%8 == 0)
		if err == nil {
			err = c.ReadAt(t.Context(), got, place<<20)
		}
		if err != nil || !bytes.Equal(got, p) {
			t.Errorf("round trip %d at MiB %d: %v", i, place, err)
			return
		}
	}
}

// TestHandoverWithinAPayload hands over while a command and its payload are
// half there: it is read to its end, answered, and what follows moves.
func TestHandoverWithinAPayload(t *testing.T) {
	h := newHandover(t, nbdtest.NewMemory("v", nbdtest.DefaultInfo(16<<20)))
	addr, err := nbdclient.ParseAddr(h.addr)
	if err != nil {
		t.Fatal(err)
	}
	nc, _, err := nbdclient.DialKernel(t.Context(), addr, "v", nbdclient.DefaultOptions())
	if err != nil {
		t.Fatal(err)
	}
	var moves sync.WaitGroup
	defer moves.Wait()
	defer func() { _ = nc.Close() }()
	head := func(cmd uint16, cookie, off uint64, n uint32) []byte {
		b := binary.BigEndian.AppendUint32(nil, 0x25609513)
		b = binary.BigEndian.AppendUint32(b, uint32(cmd))
		b = binary.BigEndian.AppendUint64(b, cookie)
		b = binary.BigEndian.AppendUint64(b, off)
		return binary.BigEndian.AppendUint32(b, n)
	}
	reply := func(cookie uint64) {
		t.Helper()
		b := make([]byte, 16)
		if err := readFull(nc, b); err != nil || binary.BigEndian.Uint64(b[8:]) != cookie || binary.BigEndian.Uint32(b[4:]) != 0 {
			t.Fatalf("reply %x: %v", b, err)
		}
	}
	for _, n := range []int{40 << 10, 200 << 10} { // through the read buffer, and past it
		p := bytes.Repeat([]byte{byte(n >> 10)}, n)
		send := func(b []byte) {
			t.Helper()
			if _, err := nc.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		send(append(head(1, 7, 0, uint32(n)), p[:n/2]...))
		moved := make(chan int, 1)
		moves.Go(func() { moved <- h.next() })
		time.Sleep(20 * time.Millisecond) // let the handover begin, most times
		read := head(0, 8, 0, 16)
		send(append(p[n/2:], read[:11]...))
		reply(7)
		if m := <-moved; m != 1 {
			t.Fatalf("%d connections moved, want 1", m)
		}
		send(read[11:])
		reply(8)
		got := make([]byte, 16)
		if err := readFull(nc, got); err != nil || !bytes.Equal(got, p[:16]) {
			t.Fatalf("read %x: %v", got, err)
		}
	}
}

// TestHandoverAtOnce hands over right when a client has been told that its
// export is open, which the server's side of it need not have noticed.
func TestHandoverAtOnce(t *testing.T) {
	h := newHandover(t, nbdtest.NewMemory("v", nbdtest.DefaultInfo(16<<20)))
	for i := range 200 {
		c, err := nbdclient.Dial(t.Context(), h.addr, "v", nbdclient.DefaultOptions())
		if err != nil {
			t.Fatal(err)
		}
		h.next()
		if err := c.Flush(t.Context()); err != nil {
			t.Errorf("handover %d: %v", i, err)
		}
		_ = c.Close()
	}
}

func readFull(nc net.Conn, b []byte) error {
	for n := 0; n < len(b); {
		m, err := nc.Read(b[n:])
		if err != nil {
			return err
		}
		n += m
	}
	return nil
}

// TestAdoptRefuses adopts connections whose client was told something else, and
// wants them closed.
func TestAdoptRefuses(t *testing.T) {
	h := newHandover(t, nbdtest.NewMemory("v", nbdtest.DefaultInfo(16<<20)))
	for name, spoil := range map[string]func(*nbdserver.Handed){
		"another export": func(h *nbdserver.Handed) { h.Export = "w" },
		"a larger size":  func(h *nbdserver.Handed) { h.SizeBytes += block.Size },
		"other flags":    func(h *nbdserver.Handed) { h.Flags ^= 2 },
		"a long input":   func(h *nbdserver.Handed) { h.Input = make([]byte, 28) },
	} {
		c, err := nbdclient.Dial(t.Context(), h.addr, "v", nbdclient.DefaultOptions())
		if err != nil {
			t.Fatal(err)
		}
		handed := h.server.Handover(t.Context())
		<-h.served
		if len(handed) != 1 {
			t.Fatalf("%s: %d connections handed over", name, len(handed))
		}
		spoil(&handed[0])
		h.start(nil)
		err = h.server.Adopt(handed[0])
		if (err != nil) != (name == "a long input") {
			t.Errorf("%s: %v", name, err)
		}
		<-c.Dead()
		_ = c.Close()
	}
}
