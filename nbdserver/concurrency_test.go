package nbdserver_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

// failing returns a backend whose every call fails.
func failing(err error) *nbdtest.Memory {
	m := newVol()
	m.Hook = func(context.Context, nbdtest.Call) error { return err }
	return m
}

// gate is a hook that holds the calls of one operation until it is opened.
type gate struct {
	op      string
	entered chan nbdtest.Call
	open    chan struct{}
}

func newGate(m *nbdtest.Memory, op string) *gate {
	g := &gate{op: op, entered: make(chan nbdtest.Call, 1000), open: make(chan struct{})}
	m.Hook = func(ctx context.Context, c nbdtest.Call) error {
		if c.Op != op {
			return nil
		}
		g.entered <- c
		select {
		case <-g.open:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return g
}

func (g *gate) wait(t *testing.T) {
	t.Helper()
	select {
	case <-g.entered:
	case <-time.After(testTimeout):
		t.Fatalf("no %s reached the device", g.op)
	}
}

// until polls a condition that another goroutine brings about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for: %s", testTimeout, what)
		}
		runtime.Gosched()
	}
}

// TestOutOfOrder: while a FLUSH waits, later reads and writes are answered.
func TestOutOfOrder(t *testing.T) {
	m := newVol()
	g := newGate(m, "Flush")
	p := enter(t, start(t, m), false)
	p.write(cat(commandBytes(0, cFlush, 1, 0, 0, nil), commandBytes(0, cRead, 2, 0, 4096, nil), commandBytes(0, cWrite, 3, 0, 4, []byte("data"))))
	p.wantRead(2, 4096)
	p.wantSimple(nbdserver.OK, 3)
	g.wait(t)
	close(g.open)
	p.wantSimple(nbdserver.OK, 1)
}

// TestLoneThenMore: a slow command that came alone delays at most the command
// after it, and only until it is done.
func TestLoneThenMore(t *testing.T) {
	m := newVol()
	g := newGate(m, "Flush")
	p := enter(t, start(t, m), false)
	p.command(0, cFlush, 1, 0, 0, nil)
	g.wait(t)
	p.write(cat(commandBytes(0, cFlush, 2, 0, 0, nil), commandBytes(0, cRead, 3, 0, 4096, nil)))
	close(g.open)
	p.wantSimple(nbdserver.OK, 1)
	for range 2 {
		if _, cookie := p.simple(); cookie == 3 {
			p.read(4096)
		}
	}
}

// TestFlood: more waiting commands than goroutines are all answered, and the
// device sees no more at once than the limit.
func TestFlood(t *testing.T) {
	m := newVol()
	var now, most atomic.Int32
	m.Slow = func(uint64, int) bool { return true }
	m.Hook = func(context.Context, nbdtest.Call) error {
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		runtime.Gosched()
		now.Add(-1)
		return nil
	}
	r := start(t, m, func(o *nbdserver.Options) { o.Limits.InFlightRequests = 4 })
	p := enter(t, r, false)
	const n = 2000
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			if _, err := p.nc.Write(commandBytes(0, cRead, uint64(i), 0, 512, nil)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	seen := map[uint64]bool{}
	for range n {
		e, cookie := p.simple()
		if e != nbdserver.OK || seen[cookie] {
			t.Fatalf("cookie %d answered %s, seen before: %t", cookie, e, seen[cookie])
		}
		seen[cookie] = true
		p.read(512)
	}
	wg.Wait()
	if most.Load() > 4+1 { // the reading goroutine may run one itself
		t.Errorf("%d commands ran at once, want at most 5", most.Load())
	}
}

// TestFUAPipelined: the payload of a write that waits is not lost to the
// commands that are read after it.
func TestFUAPipelined(t *testing.T) {
	m := newVol()
	m.Hook = func(context.Context, nbdtest.Call) error {
		runtime.Gosched()
		return nil
	}
	p := enter(t, start(t, m), false)
	const n, size = 200, 4096
	for i := range uint64(n) {
		p.command(fFUA, cWrite, i, i*size, size, bytes.Repeat([]byte{byte(i) + 1}, size))
	}
	for range n {
		if e, cookie := p.simple(); e != nbdserver.OK {
			t.Fatalf("write %d answered %s", cookie, e)
		}
	}
	p.command(0, cRead, 1, 0, n*size, nil)
	got := p.wantRead(1, n*size)
	for j := range n {
		if !bytes.Equal(got[j*size:(j+1)*size], bytes.Repeat([]byte{byte(j) + 1}, size)) {
			t.Fatalf("block %d does not hold what was written", j)
		}
	}
}

// TestMemoryGivenBack: connections that break off while their commands hold
// memory give it back to the others.
func TestMemoryGivenBack(t *testing.T) {
	m := nbdtest.NewMemory("vol", nbdtest.DefaultInfo(64<<20))
	m.Slow = func(uint64, int) bool { return true }
	m.Hook = func(_ context.Context, c nbdtest.Call) error {
		if c.OffBytes == 0 {
			return block.Errorf(block.Fenced, "planted")
		}
		return nil
	}
	r := start(t, m, func(o *nbdserver.Options) { o.Limits.InFlightBytes, o.Limits.TotalBytes = 64<<20, 64<<20 })
	for range 4 {
		for _, c := range [][]byte{
			commandBytes(0, cRead, 1, 0, 32<<20, nil), // breaks off
			commandBytes(fFUA, cWrite, 1, 0, 1<<20, make([]byte, 1<<20)),
			cat(commandBytes(0, cFlush, 1, 0, 0, nil), commandBytes(0, cRead, 1, 0, 32<<20, nil), commandBytes(0, cRead, 1, 4096, 16<<20, nil)),
		} {
			p := enter(t, r, false)
			p.write(c)
			_ = p.nc.(*net.UnixConn).CloseWrite() // the server may have closed already
			_, _ = io.Copy(io.Discard, p.nc)
		}
	}
	p := enter(t, r, false)
	p.command(0, cRead, 1, 4096, 32<<20, nil)
	p.wantRead(1, 32<<20)
}

// TestMemoryShared: many connections whose commands need more memory together
// than there is all go on.
func TestMemoryShared(t *testing.T) {
	m := nbdtest.NewMemory("vol", nbdtest.DefaultInfo(8<<20))
	m.Slow = func(uint64, int) bool { return true }
	r := start(t, m, func(o *nbdserver.Options) {
		o.Limits.RequestBytes, o.Limits.InFlightBytes, o.Limits.TotalBytes = 1<<20, 2<<20, 3<<20
		o.Limits.InFlightRequests = 2
	})
	var wg sync.WaitGroup
	for range 6 {
		p := enter(t, r, false)
		const n = 30
		wg.Go(func() {
			data := make([]byte, 1<<20)
			for i := range uint64(n) {
				c := commandBytes(0, cRead, i, 0, 1<<20, nil)
				if i%3 == 0 {
					c = commandBytes(fFUA, cWrite, i, 0, 1<<20, data)
				}
				if _, err := p.nc.Write(c); err != nil {
					t.Error(err)
					return
				}
			}
		})
		wg.Go(func() {
			if _, err := io.CopyN(io.Discard, p.nc, n*16+n*2/3<<20); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestUnreadReplies: a client that sends and never reads holds no more than its
// limits, and is closed in the end.
func TestUnreadReplies(t *testing.T) {
	small := commandBytes(0, cRead, 1, 0, 60<<10, nil)
	large := commandBytes(0, cRead, 1, 0, 1<<20, nil)
	for name, c := range map[string]struct{ first, then []byte }{
		"large":               {nil, large},
		"small":               {nil, small},
		"small after waiting": {cat(large, large, large), small}, // one of three others writes
	} {
		t.Run(name, func(t *testing.T) {
			m := nbdtest.NewMemory("vol", nbdtest.DefaultInfo(64<<20))
			m.Slow = func(_ uint64, n int) bool { return c.first != nil && n > 64<<10 }
			r := start(t, m, func(o *nbdserver.Options) { o.Limits.Stall = 300 * time.Millisecond })
			p := enter(t, r, false)
			before := allocated()
			_, err := p.nc.Write(c.first)
			for err == nil {
				_, err = p.nc.Write(c.then)
			}
			if n := allocated() - before; n > 64<<20 {
				t.Errorf("the server allocated %d MiB for a client that does not read", n>>20)
			}
			until(t, "the device to be closed", func() bool { return m.OpenDevices() == 0 })
		})
	}
}

// TestUnreadTogether: replies that many clients ask for and nobody reads take no
// more memory together than TotalBytes and a fixed part of each connection.
func TestUnreadTogether(t *testing.T) {
	const clients, total, fixed, pages = 48, 24 << 20, 640 << 10, 2048
	page := bytes.Repeat([]byte{1}, 4096)
	for name, then := range map[string]ask{
		"small reads": {cmd: cRead, length: 60 << 10}, "statuses": {cmd: cStatus, length: 2 * pages * 4096},
		"results": {cmd: cFlush},
	} {
		t.Run(name, func(t *testing.T) {
			m := nbdtest.NewMemory("vol", nbdtest.DefaultInfo(32<<20))
			m.Slow = func(_ uint64, n int) bool { return n > 64<<10 }
			var slow atomic.Int32
			m.Hook = func(_ context.Context, c nbdtest.Call) error {
				if c.Op == "ReadAt" {
					slow.Add(1)
				}
				return nil
			}
			r := start(t, m, func(o *nbdserver.Options) {
				o.Limits.RequestBytes, o.Limits.InFlightBytes, o.Limits.TotalBytes = 1<<20, total, total
			})
			w := enterMode(t, r, extended)
			for i := range uint64(pages) { // every other page: a status of many extents
				a := ask{cmd: cWrite, off: 2 * i * 4096, length: 4096, payload: page}
				w.send(a)
				w.wantResult(nbdserver.OK, a)
			}
			before := heapBytes()
			var peers []*modePeer
			for range clients {
				p := enterMode(t, r, extended)
				// At once, so that others than the reader answer these and fill the socket.
				p.write(bytes.Repeat(extended.bytes(ask{cmd: cRead, length: 120 << 10}), 3))
				peers = append(peers, p)
			}
			until(t, "slow reads", func() bool { return slow.Load() == 3*clients })
			var flood sync.WaitGroup
			for _, p := range peers {
				flood.Go(func() {
					all := bytes.Repeat(extended.bytes(then), 5000)
					for err := error(nil); err == nil; { // until the server has taken nothing for a second
						if err = p.nc.SetWriteDeadline(time.Now().Add(time.Second)); err == nil {
							_, err = p.nc.Write(all)
						}
					}
				})
			}
			flood.Wait()
			n := int(heapBytes()) - int(before)
			t.Logf("%d clients hold %d KiB", clients, n>>10)
			if n > total+clients*fixed {
				t.Errorf("%d clients that read nothing hold %d KiB, want at most %d and %d each", clients, n>>10, total>>10, fixed>>10)
			}
		})
	}
}

// TestStalledPayload: a WRITE whose payload does not come ends the connection.
func TestStalledPayload(t *testing.T) {
	for _, length := range []uint32{4096, 1 << 20, 40 << 20} {
		r := start(t, newVol(), func(o *nbdserver.Options) { o.Limits.Stall = 50 * time.Millisecond })
		p := enter(t, r, false)
		p.command(0, cWrite, 1, 0, length, []byte("not all"))
		p.wantClosed()
	}
}

// TestIdle: a client may be silent for longer than the limit on stalls.
func TestIdle(t *testing.T) {
	r := start(t, newVol(), func(o *nbdserver.Options) {
		o.Limits.Stall, o.Limits.Handshake = 500*time.Millisecond, time.Second
	})
	p := enter(t, r, false)
	p.command(0, cWrite, 1, 0, 100, make([]byte, 99)) // all but one byte, the rest soon
	p.write([]byte{0})
	p.wantSimple(nbdserver.OK, 1)
	timer := time.NewTimer(1200 * time.Millisecond) // the silence itself is what is tested
	<-timer.C
	p.wantAlive(false)
	p.command(0, cRead, 2, 0, 1<<20, nil)
	p.wantRead(2, 1<<20)
}

// TestDisconnect: the backend replaces a connection while a command runs; it is
// not answered, none is run after it, and the device is closed after the call.
func TestDisconnect(t *testing.T) {
	m := newVol()
	g := newGate(m, "Flush")
	m.Record()
	p := enter(t, start(t, m), false)
	p.write(cat(commandBytes(0, cFlush, 1, 0, 0, nil)))
	g.wait(t)
	m.Disconnect(block.Errorf(block.Fenced, "replaced"))
	_, _ = p.nc.Write(commandBytes(0, cWrite, 2, 0, 4, []byte("late"))) // may find the socket closed
	p.wantClosed()
	until(t, "the device to be closed", func() bool { return m.OpenDevices() == 0 })
	if calls := m.Calls(); len(calls) != 1 {
		t.Errorf("calls are %+v, want the FLUSH alone", calls)
	}
}

// TestDisconnectBuffered: commands that were received before disconnect but not
// begun are not run.
func TestDisconnectBuffered(t *testing.T) {
	m := newVol()
	m.Record()
	m.Hook = func(_ context.Context, c nbdtest.Call) error {
		if c.Op == "WriteAt" && c.OffBytes == 0 {
			m.Disconnect(nil)
		}
		return nil
	}
	p := enter(t, start(t, m), false)
	p.write(cat(commandBytes(0, cWrite, 1, 0, 4, []byte("once")), commandBytes(0, cWrite, 2, 4, 4, []byte("late")), commandBytes(0, cFlush, 3, 0, 0, nil)))
	p.wantClosed()
	if calls := m.Calls(); len(calls) != 1 {
		t.Errorf("calls are %+v, want the first WRITE alone", calls)
	}
}

// TestDisconnectIdle: a connection blocked in a read of the socket ends.
func TestDisconnectIdle(t *testing.T) {
	m := newVol()
	p := enter(t, start(t, m), false)
	m.Disconnect(errors.New("replaced"))
	p.wantClosed()
}

// TestDisconnectUnread: a connection blocked in a write to the socket ends.
func TestDisconnectUnread(t *testing.T) {
	m := nbdtest.NewMemory("vol", nbdtest.DefaultInfo(64<<20))
	m.Record()
	p := enter(t, start(t, m), false)
	p.command(0, cRead, 1, 0, 32<<20, nil)
	until(t, "the read", func() bool { return len(m.Calls()) == 1 })
	m.Disconnect(nil)
	until(t, "the device to be closed", func() bool { return m.OpenDevices() == 0 })
}

// TestDiscFinishes: what was sent before DISC is answered before the close.
func TestDiscFinishes(t *testing.T) {
	m := newVol()
	g := newGate(m, "Flush")
	p := enter(t, start(t, m), false)
	p.write(cat(commandBytes(0, cFlush, 1, 0, 0, nil), commandBytes(0, cRead, 2, 0, 16, nil), commandBytes(0, cDisc, 3, 0, 0, nil)))
	g.wait(t)
	close(g.open)
	for range 2 {
		if _, cookie := p.simple(); cookie == 2 {
			p.read(16)
		}
	}
	p.wantClosed()
}

// TestShutdown: commands in flight are answered, then the connection closes;
// a negotiation gets ERR_SHUTDOWN.
func TestShutdown(t *testing.T) {
	m := newVol()
	g := newGate(m, "Flush")
	r := start(t, m)
	busy, idle, young := enter(t, r, false), enter(t, r, false), hello(t, r)
	young.option(oList, nil)
	young.wantReply(oList, rServer)
	young.wantReply(oList, rAck)
	busy.write(cat(commandBytes(0, cFlush, 1, 0, 0, nil), commandBytes(0, cWrite, 2, 0, 4, []byte("data"))))
	busy.wantSimple(nbdserver.OK, 2)
	g.wait(t)
	done := make(chan error, 1)
	go func() { done <- r.Shutdown(t.Context()) }()
	idle.wantClosed()
	young.option(oGo, infoData("vol"))
	young.wantReply(oGo, rShutdown)
	young.option(oAbort, nil) // alone is served
	young.wantReply(oAbort, rAck)
	young.wantClosed()
	select {
	case err := <-done:
		t.Fatalf("Shutdown returned %v while a command was in flight", err)
	default:
	}
	close(g.open)
	busy.wantSimple(nbdserver.OK, 1)
	busy.wantClosed()
	_, _, _ = busy.nc.Close(), idle.nc.Close(), young.nc.Close()
	if err := <-done; err != nil {
		t.Errorf("Shutdown returned %v", err)
	}
}

// TestShutdownDeadline: a call that does not end is canceled.
func TestShutdownDeadline(t *testing.T) {
	m := newVol()
	g := newGate(m, "Flush")
	r := start(t, m)
	p := enter(t, r, false)
	p.command(0, cFlush, 1, 0, 0, nil)
	g.wait(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown returned %v", err)
	}
	p.wantClosed()
}

// TestFlushCovers: a FLUSH reaches the device only after every write that was
// answered before it was sent has returned, also from another connection.
func TestFlushCovers(t *testing.T) {
	m := newVol()
	var returned, answered atomic.Int64
	m.Hook = func(_ context.Context, c nbdtest.Call) error {
		switch {
		case c.Op == "WriteAt":
			returned.Add(1)
		case c.Op == "Flush" && returned.Load() < answered.Load():
			t.Error("FLUSH overtook a write that was answered")
		}
		return nil
	}
	r := start(t, m)
	a, b := enter(t, r, false), enter(t, r, false)
	for i := range uint64(200) {
		flags := uint16(i % 2) // plain and FUA
		a.command(flags, cWrite, i, i*512, 512, make([]byte, 512))
		a.wantSimple(nbdserver.OK, i)
		answered.Add(1)
		b.command(0, cFlush, i, 0, 0, nil)
		b.wantSimple(nbdserver.OK, i)
	}
}

// counts implements Metrics and Recorder.
type counts struct {
	opened, closed, refused atomic.Int64
	arrived, ended          atomic.Int64
	mu                      sync.Mutex
	done                    map[string]int
}

func (c *counts) ConnectionOpened()                                                        { c.opened.Add(1) }
func (c *counts) ConnectionClosed()                                                        { c.closed.Add(1) }
func (c *counts) ConnectionRefused()                                                       { c.refused.Add(1) }
func (c *counts) ExportOpened(nbdserver.Conn, string, nbdserver.Device) nbdserver.Recorder { return c }
func (c *counts) Arrived()                                                                 { c.arrived.Add(1) }
func (c *counts) Closed()                                                                  { c.ended.Add(1) }
func (c *counts) Done(d nbdserver.Done) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.Took < 0 || d.Took > time.Minute || d.Payload < 0 || d.Queued < 0 || d.Payload+d.Queued > d.Took {
		c.done["bad latency"]++
	}
	c.done[d.Command.String()+" "+d.Result.String()]++
}

func TestMetrics(t *testing.T) {
	c := &counts{done: map[string]int{}}
	r := start(t, newVol(), func(o *nbdserver.Options) { o.Metrics = c })
	p := enter(t, r, false)
	p.wantAlive(false)
	p.command(0, cWrite, 1, 0, 4, []byte("data"))
	p.command(0, cFlush, 1, 0, 0, nil)
	p.command(0, cWrite, 1, 1<<20, 4, []byte("data"))
	p.command(0, 99, 1, 0, 0, nil)
	for range 4 {
		p.simple()
	}
	p.command(0, cDisc, 1, 0, 0, nil)
	p.wantClosed()
	_ = p.nc.Close()
	until(t, "the connection to be closed", func() bool { return c.closed.Load() == 1 })
	done := 0
	for _, n := range c.done {
		done += n
	}
	if c.ended.Load() != 1 || c.arrived.Load() != int64(done) {
		t.Errorf("the recorder ended %d times; %d commands arrived, %d are done", c.ended.Load(), c.arrived.Load(), done)
	}
	for _, k := range []string{"read ok", "write ok", "flush ok", "write ENOSPC", "unknown EINVAL"} {
		if c.done[k] != 1 {
			t.Errorf("%s counted %d times; all: %v", k, c.done[k], c.done)
		}
	}
	if c.opened.Load() != 1 || len(c.done) != 5 {
		t.Errorf("opened %d, counts %v", c.opened.Load(), c.done)
	}
}
