package nbdserver_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// acceptTimes notes when accepts fail.
type acceptTimes struct {
	net.Listener
	mu     sync.Mutex
	failed []time.Time
}

func (l *acceptTimes) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.failed = append(l.failed, time.Now())
	}
	return nc, err
}

func (l *acceptTimes) failures() []time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]time.Time(nil), l.failed...)
}

// TestNoDescriptors: while the process has no file descriptor left to accept
// with, who is connected is served, the server neither spins nor floods its log,
// and afterwards who waited is served. It runs in a process of its own: what other
// tests have left may close a descriptor at any moment.
func TestNoDescriptors(t *testing.T) {
	const alone = "SLACKER_TEST_ALONE"
	if os.Getenv(alone) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), alone+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	core, logs := observer.New(zap.InfoLevel)
	r := start(t, newVol(), func(o *nbdserver.Options) { o.Logger = zap.New(core) })
	path := filepath.Join(t.TempDir(), "second.sock")
	ul, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l := &acceptTimes{Listener: ul}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, l) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve returned %v", err)
		}
	}()
	served := enter(t, r, false)

	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	restore := sync.OnceFunc(func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	})
	defer restore()
	next, err := os.Open(os.DevNull) // gets the lowest free descriptor
	if err != nil {
		t.Fatal(err)
	}
	fd := next.Fd()
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(fd) + 1, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	waiting, err := net.Dial("unix", path) // takes the last one
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = waiting.Close() }()
	const tries = 6
	until(t, "failed accepts", func() bool { return len(l.failures()) >= tries })
	failed := l.failures()
	if took := failed[tries-1].Sub(failed[0]); took < 100*time.Millisecond { // 5, 10, 20, 40, 80 ms
		t.Errorf("%d accepts failed within %s: the server spins", tries, took)
	}
	served.wantAlive(false)
	restore()
	if err := waiting.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	if got := (&peer{t, waiting}).read(18); be.Uint64(got) != oldMagic {
		t.Errorf("greeting is %x", got)
	}
	if n := logs.FilterMessageSnippet("cannot be accepted").Len(); n != 1 {
		t.Errorf("%d failed accepts were logged, want the first", n)
	}
	if n := logs.FilterMessage("nbd connections are accepted again").Len(); n != 1 {
		t.Errorf("the end of it was logged %d times", n)
	}
}

// TestSilentFlood: who only connects costs a bounded number of goroutines and
// lines of the log, for a bounded time, and then others get in.
func TestSilentFlood(t *testing.T) {
	const limit, flood = 8, 40
	c := &counts{done: map[string]int{}}
	core, logs := observer.New(zap.InfoLevel)
	begun := time.Now()
	r := start(t, newVol(), func(o *nbdserver.Options) {
		o.Limits.Negotiations, o.Limits.Handshake, o.Metrics, o.Logger = limit, 2*time.Second, c, zap.New(core)
	})
	working := enter(t, r, false)
	before := runtime.NumGoroutine()
	for range flood {
		nc, err := net.Dial("unix", r.path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = nc.Close() }()
	}
	until(t, "the flood to be refused", func() bool { return c.refused.Load() == flood-limit })
	if n, most := logs.FilterMessage("refuse an nbd connection").Len(), 1+int(time.Since(begun)/time.Second); n < 1 || n > most {
		t.Errorf("%d refusals were logged, want 1 to %d", n, most)
	}
	if n := runtime.NumGoroutine() - before; n > limit+2 {
		t.Errorf("%d silent clients cost %d goroutines, want at most %d", flood, n, limit)
	}
	working.wantAlive(false)
	until(t, "the rest to be closed", func() bool { return c.closed.Load() == limit })
	enter(t, r, false).wantAlive(false)
}

// TestUnreadListing: a client that asks for listings and reads none is closed at
// the deadline of the negotiation.
func TestUnreadListing(t *testing.T) {
	m := newVol()
	info := nbdtest.DefaultInfo(1)
	info.Description = strings.Repeat("x", 4000)
	for i := range 500 {
		m.Add(strings.Repeat("n", i+1), info)
	}
	c := &counts{done: map[string]int{}}
	r := start(t, m, func(o *nbdserver.Options) { o.Limits.Handshake, o.Metrics = 300*time.Millisecond, c })
	p := hello(t, r)
	for range 32 {
		p.option(oList, nil)
	}
	until(t, "the connection to be closed", func() bool { return c.closed.Load() == 1 })
}

// listings is a backend that counts the listings under way.
type listings struct {
	*nbdtest.Memory
	now, most atomic.Int32
	open      chan struct{}
}

func (b *listings) List(ctx context.Context, c nbdserver.Conn) ([]nbdserver.Export, error) {
	n := b.now.Add(1)
	defer b.now.Add(-1)
	for old := b.most.Load(); n > old && !b.most.CompareAndSwap(old, n); old = b.most.Load() {
	}
	<-b.open
	return b.Memory.List(ctx, c)
}

// TestListingsAtOnce: many clients that ask for listings are answered a few at a
// time.
func TestListingsAtOnce(t *testing.T) {
	b := &listings{Memory: newVol(), open: make(chan struct{})}
	r := start(t, b)
	var peers []*peer
	for range 40 {
		p := hello(t, r)
		p.option(oList, nil)
		peers = append(peers, p)
	}
	until(t, "listings", func() bool { return b.now.Load() >= 16 })
	close(b.open)
	for _, p := range peers {
		p.wantReply(oList, rServer)
		p.wantReply(oList, rAck)
	}
	if n := b.most.Load(); n != 16 {
		t.Errorf("%d listings were under way at once, want 16", n)
	}
}

// TestTotalBytes: the buffers of all connections together stay within their
// limit, those of one within its own.
func TestTotalBytes(t *testing.T) {
	for name, tc := range map[string]struct{ own, total, peers, want int }{
		"all": {3 << 20, 4 << 20, 6, 3}, "one": {3 << 20, 64 << 20, 1, 2}, // a buffer has a head beside its MiB
	} {
		t.Run(name, func(t *testing.T) {
			m := nbdtest.NewMemory("vol", nbdtest.DefaultInfo(8<<20))
			m.Slow = func(uint64, int) bool { return true }
			var now, most atomic.Int32
			two, once := make(chan struct{}), sync.Once{}
			m.Hook = func(context.Context, nbdtest.Call) error {
				n := now.Add(1)
				defer now.Add(-1)
				if n == 2 {
					once.Do(func() { close(two) })
				}
				<-two // two fit, so a second one comes
				for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
				}
				for range 1000 { // others get their chance to break the limit
					runtime.Gosched()
				}
				return nil
			}
			r := start(t, m, func(o *nbdserver.Options) {
				o.Limits.RequestBytes, o.Limits.InFlightBytes, o.Limits.TotalBytes = 1<<20, tc.own, tc.total
			})
			var wg sync.WaitGroup
			for range tc.peers {
				p := enter(t, r, false)
				wg.Go(func() {
					var all []byte // sent at once, so that they are under way together
					for i := range uint64(10) {
						all = append(all, commandBytes(0, cRead, i, 0, 1<<20, nil)...)
					}
					if _, err := p.nc.Write(all); err != nil {
						t.Error(err)
						return
					}
					for range 10 {
						p.simple()
						p.read(1 << 20)
					}
				})
			}
			wg.Wait()
			if n := int(most.Load()); n > tc.want {
				t.Errorf("%d MiB were read at once, want at most %d", n, tc.want)
			}
		})
	}
}

// heapBytes is what is in use.
func heapBytes() uint64 {
	runtime.GC()
	runtime.GC() // the first moves what pools hold aside, the second frees it
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// TestIdleCost: a connection that is idle after some use holds little memory.
func TestIdleCost(t *testing.T) {
	const n, want = 100, 256 << 10
	r := start(t, newVol())
	before := heapBytes()
	for range n {
		p := enterMode(t, r, extended)
		p.alive()
		for range 20 {
			p.send(ask{cmd: cRead, length: 1 << 20})
		}
		for range 20 {
			p.readData(ask{cmd: cRead, length: 1 << 20})
		}
	}
	if cost := (int64(heapBytes()) - int64(before)) / n; cost > want {
		t.Errorf("an idle connection holds %d KiB, want at most %d", cost>>10, want>>10)
	} else {
		t.Logf("an idle connection holds %d KiB", cost>>10)
	}
}
