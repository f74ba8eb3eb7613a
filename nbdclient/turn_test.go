package nbdclient

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// reader plays whoever reads requests from a file and submits them.
type reader struct {
	t        *testing.T
	batch    *Batch
	requests chan *Request
	in, out  *os.File // a byte for each request
	has      atomic.Bool
	ended    chan struct{}
	end      func()
}

func newReader(t *testing.T, s *Session) *reader {
	t.Helper()
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{t: t, batch: s.NewBatch(), requests: make(chan *Request, 100), in: in, out: out, ended: make(chan struct{})}
	fd := int(in.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.ended)
		defer r.batch.Release()
		var b [1]byte
		for {
			n, err := unix.Read(fd, b[:])
			switch {
			case n == 1:
				r.batch.Submit(<-r.requests)
			case n == 0 && err == nil:
				return
			default:
				r.batch.Send()
				r.batch.Await(fd)
			}
			r.has.Store(r.batch.receiving.in != nil)
		}
	}()
	r.end = sync.OnceFunc(func() {
		_ = r.out.Close()
		<-r.ended
		_ = r.in.Close()
	})
	t.Cleanup(r.end)
	return r
}

// submit returns where the result will be.
func (r *reader) submit(q *Request) <-chan error {
	done := make(chan error, 1)
	q.Done = func(_ *Request, err error) { done <- err }
	r.requests <- q
	if _, err := r.out.Write([]byte{0}); err != nil {
		r.t.Error(err)
	}
	return done
}

// alone makes n requests one after the other.
func (r *reader) alone(n int) {
	r.t.Helper()
	for i := range n {
		q := &Request{Op: OpRead, OffBytes: uint64(i) * 512, Data: make([]byte, 512)}
		if i%2 == 0 {
			q = &Request{Op: OpWrite, OffBytes: uint64(i) * 512, Data: bytes.Repeat([]byte{byte(i)}, 512)}
		}
		if err := <-r.submit(q); err != nil {
			r.t.Fatal(err)
		}
	}
}

// getsTurn makes requests until the batch has the turn.
func (r *reader) getsTurn() {
	r.t.Helper()
	for tries := 0; !r.has.Load(); tries++ {
		if tries > 1000 {
			r.t.Fatal("the batch never gets the turn")
		}
		r.alone(smallAfter)
	}
}

// TestTurnPassesAndComesBack: small requests bring the turn to the batch, also many
// at once, and large ones back to the receiver; all are answered.
func TestTurnPassesAndComesBack(t *testing.T) {
	f := newFakeServer(t)
	s := openTest(t, f.addr, sessionOptions(2))
	r := newReader(t, s)
	for range 3 {
		r.getsTurn()
		var waiting []<-chan error
		for i := range 16 {
			waiting = append(waiting, r.submit(&Request{Op: OpRead, OffBytes: uint64(i) << 12, Data: make([]byte, 4096)}))
		}
		for _, done := range waiting {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if !r.has.Load() {
			t.Fatal("16 small requests gave the turn back")
		}
		if err := <-r.submit(&Request{Op: OpRead, Data: make([]byte, 64<<10)}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a large request gives the turn back", func() bool { return !r.has.Load() })
	}
}

// TestTurnComesWhileRequestsAreInFlight: it takes no moment without any.
func TestTurnComesWhileRequestsAreInFlight(t *testing.T) {
	f := newFakeServer(t)
	answer := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(answer) })
	t.Cleanup(goOn)
	f.request = func(string, uint16, uint64) int { <-answer; return serve }
	s := openTest(t, f.addr, sessionOptions(1))
	r := newReader(t, s)
	conn := s.slots[0].conn
	submit := func() <-chan error { return r.submit(&Request{Op: OpRead, Data: make([]byte, 512)}) }
	first := submit()
	for tries := 0; !r.has.Load(); tries++ {
		if tries > 10*smallAfter {
			t.Fatal("the batch never gets the turn")
		}
		second := submit()
		eventually(t, "both are in flight", func() bool {
			conn.mu.Lock()
			defer conn.mu.Unlock()
			return len(conn.pending) == 2
		})
		answer <- struct{}{}
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		first = second
	}
	goOn()
	if err := <-first; err != nil {
		t.Fatal(err)
	}
}

// TestTurnWhileTheServerDoesNotRead: a server that waits for its replies to be read,
// before it reads what a batch with the turn sends, gets both.
func TestTurnWhileTheServerDoesNotRead(t *testing.T) {
	f := newFakeServer(t)
	o := sessionOptions(1)
	o.Conn.StallTimeout = 0 // it would end the wait
	s := openTest(t, f.addr, o)
	r := newReader(t, s)
	r.getsTurn()
	const many = 100
	done := make(chan error, many)
	for i := range many {
		r.requests <- &Request{Op: Op(i % 2), Data: make([]byte, copiedBytes), Done: func(_ *Request, err error) { done <- err }}
	}
	if _, err := r.out.Write(make([]byte, many)); err != nil { // all at once: no reply is looked for between them
		t.Fatal(err)
	}
	for range many {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(60 * time.Second):
			f.dropAll()
			t.Fatal("the batch and the server wait for each other")
		}
	}
}

// TestTurnOfALostConnection: a batch that has the turn sees its connection die,
// also while nothing is in flight, and goes on with the next one.
func TestTurnOfALostConnection(t *testing.T) {
	f := newFakeServer(t)
	s := openTest(t, f.addr, sessionOptions(1))
	r := newReader(t, s)
	for range 5 {
		r.getsTurn()
		before := len(f.names())
		f.dropAll()
		eventually(t, "the slot came back", func() bool { return len(f.names()) > before && allConnected(s)() })
	}
	r.alone(10)
}

// TestTurnAndOthers: whoever else makes requests on the connection gets answers,
// whether the batch has the turn or only wants it and looks elsewhere.
func TestTurnAndOthers(t *testing.T) {
	f := newFakeServer(t)
	const last = 1<<20 - 512
	arrived := make(chan struct{})
	var goOn sync.WaitGroup
	goOn.Add(1)
	f.request = func(_ string, _ uint16, off uint64) int {
		if off == last {
			close(arrived)
			goOn.Wait()
		}
		return serve
	}
	s := openTest(t, f.addr, sessionOptions(1))
	r := newReader(t, s)
	r.getsTurn()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.ReadAt(ctx, make([]byte, 100<<10), 0); err != nil {
		t.Fatalf("beside a batch that has the turn: %v", err)
	}
	r.end()

	b := s.NewBatch() // it wants the turn, and does not look
	conn := s.slots[0].conn
	b.receiving.conn, b.receiving.socket = conn, conn.conn.(*socket)
	read := make(chan error, 1)
	go func() { read <- s.ReadAt(ctx, make([]byte, 512), last) }()
	<-arrived
	conn.turn.wanted.Store(true) // the receiver offers it before or after this reply
	goOn.Done()
	eventually(t, "the turn is offered", func() bool { return len(conn.turn.offered) == 1 })
	if err := s.WriteAt(ctx, make([]byte, 512), 0, false); err != nil {
		t.Fatalf("beside a batch that does not look: %v", err)
	}
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	b.Release()
}

// TestTurnEndsWithTheSession: a session closes while a batch has the turn, or was
// offered it.
func TestTurnEndsWithTheSession(t *testing.T) {
	f := newFakeServer(t)
	for range 10 {
		s := openTest(t, f.addr, sessionOptions(1))
		r := newReader(t, s)
		r.alone(smallAfter + rand.IntN(3))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		r.end()
	}
}

// TestTurnUnderEveryKindOfLoss: phases of requests one at a time and many at once,
// with others beside, while connections are lost; no answer is lost or wrong.
func TestTurnUnderEveryKindOfLoss(t *testing.T) {
	f := newFakeServer(t)
	var n atomic.Int64
	f.request = func(_ string, _ uint16, _ uint64) int {
		switch n.Add(1) % 211 {
		case 100:
			return dropConnection
		case 210:
			return answerShutdown
		}
		return serve
	}
	s := openTest(t, f.addr, sessionOptions(2))
	r := newReader(t, s)
	var beside sync.WaitGroup
	stop := make(chan struct{})
	beside.Go(func() {
		p := make([]byte, 20<<10)
		for {
			select {
			case <-stop:
				return
			case <-time.After(rand.N(time.Millisecond)): // the others are alone now and then
			}
			if err := s.ReadAt(context.Background(), p, 512<<10); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for round := range 20 {
		r.alone(smallAfter * 2)
		var waiting []<-chan error
		for i := range rand.IntN(8) {
			waiting = append(waiting, r.submit(&Request{Op: OpWrite, OffBytes: uint64(i) * 512, Data: bytes.Repeat([]byte{byte(round)}, 512)}))
		}
		for _, done := range waiting {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		for i := range waiting {
			p := make([]byte, 512)
			if err := <-r.submit(&Request{Op: OpRead, OffBytes: uint64(i) * 512, Data: p}); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(p, bytes.Repeat([]byte{byte(round)}, 512)) {
				t.Fatalf("round %d, block %d: wrong data", round, i)
			}
		}
	}
	close(stop)
	beside.Wait()
}

// TestBusyProcessor: who gets its processor back late does not look again and again
// for a while, as it would use up its share of it.
func TestBusyProcessor(t *testing.T) {
	defer func(p int, y func()) { processors, yield = p, y }(processors, yield)
	processors = 2
	yields := 0
	yield = func() { yields++; time.Sleep(2 * longYield) } // others run meanwhile
	var r receiving
	if r.sleepy() || yields != 1 {
		t.Fatalf("the first look sleeps, after %d yields", yields)
	}
	r.heard()
	r.average = 0
	if !r.sleepy() || yields != 1 {
		t.Error("it looks on beside others")
	}
	r.heard()
	r.average, r.busy = 0, time.Now()
	if r.sleepy() || yields != 2 {
		t.Error("it never looks again")
	}
}
