package relay

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

// TestRequests: what the kernel asks for is what the server is asked for, and the
// server's answer is the kernel's (R1).
func TestRequests(t *testing.T) {
	s := newServer(t)
	s.memory.Hook = func(_ context.Context, c nbdtest.Call) error {
		if c.OffBytes == 32<<20 {
			return block.Errorf(block.NoSpace, "full")
		}
		return nil
	}
	s.memory.Record()
	k, _ := device(t, s.session(t, 2))
	ctx := t.Context()
	rng := rand.NewChaCha8([32]byte{4})
	for _, n := range []int{1, 512, 4096, 16 << 10, 64<<10 + 1, 1 << 20, block.MaxRequestBytes} {
		want, got := make([]byte, n), make([]byte, n)
		_, _ = rng.Read(want)
		for _, fua := range []bool{false, true} {
			must(t, k.WriteAt(ctx, want, 1<<20+7, fua))
		}
		must(t, k.ReadAt(ctx, got, 1<<20+7))
		if !bytes.Equal(got, want) {
			t.Fatalf("%d bytes: read is not what was written", n)
		}
	}
	must(t, k.Flush(ctx))
	must(t, k.Trim(ctx, 4096, 8192, true))
	must(t, k.WriteZeroes(ctx, 8192, 4096, true, false))
	for _, err := range []error{k.WriteAt(ctx, make([]byte, 512), 32<<20, false), k.WriteZeroes(ctx, 32<<20, 512, false, false)} {
		if !block.Is(err, block.NoSpace) {
			t.Errorf("what the server has no room for: %v", err)
		}
	}
	var got []string
	for _, c := range s.memory.Calls() {
		if !strings.HasPrefix(c.Op, "Read") {
			got = append(got, fmt.Sprintln(c.Op, c.OffBytes, c.LengthBytes, c.FUA, c.NoHole))
		}
	}
	var want []string
	for _, n := range []int{1, 512, 4096, 16 << 10, 64<<10 + 1, 1 << 20, block.MaxRequestBytes} {
		want = append(want, fmt.Sprintln("WriteAt", 1<<20+7, n, false, false), fmt.Sprintln("WriteAt", 1<<20+7, n, true, false))
	}
	want = append(want, fmt.Sprintln("Flush", 0, 0, false, false), fmt.Sprintln("Trim", 4096, 8192, true, false), fmt.Sprintln("WriteZeroes", 8192, 4096, false, true),
		fmt.Sprintln("WriteAt", 32<<20, 512, false, false), fmt.Sprintln("WriteZeroes", 32<<20, 512, false, false))
	if !slices.Equal(got, want) {
		t.Errorf("the server was asked for\n%v\nwant\n%v", got, want)
	}
}

// load writes and reads back blocks of its own over a kernel until stop is called,
// which returns how often.
func load(t *testing.T, k kernel, writers int) (stop func() int) {
	var ended atomic.Bool
	var wg sync.WaitGroup
	var done atomic.Int64
	ctx := t.Context()
	for w := range writers {
		wg.Go(func() {
			size := []int{512, 4096, 128 << 10}[w%3]
			at := uint64(w) << 20
			got := make([]byte, size)
			for i := 0; !ended.Load(); i++ {
				want := bytes.Repeat(fmt.Appendf(nil, "%08d%08d", w, i), size/16)
				if err := k.WriteAt(ctx, want, at, i%8 == 0); err != nil {
					t.Errorf("writer %d: write %d: %v", w, i, err)
					return
				}
				if err := k.ReadAt(ctx, got, at); err != nil || !bytes.Equal(got, want) {
					t.Errorf("writer %d: read %d: %v, the same %v", w, i, err, bytes.Equal(got, want))
					return
				}
				done.Add(1)
			}
		})
	}
	return func() int { ended.Store(true); wg.Wait(); return int(done.Load()) }
}

// TestServerEndsUnderLoad: the kernel sees nothing of servers that end again and
// again while requests are in flight.
func TestServerEndsUnderLoad(t *testing.T) {
	s := newServer(t)
	session := s.session(t, 3)
	k, _ := device(t, session)
	stop := load(t, k, 6)
	for range 8 {
		lost := session.Reconnected()
		s.kill()
		s.start(t)
		for session.Reconnected() < lost+3 && k.Err() == nil {
			must(t, k.WriteAt(t.Context(), make([]byte, 512), 60<<20, false))
		}
	}
	t.Logf("%d rounds of writing and reading", stop())
	if k.Err() != nil {
		t.Errorf("the kernel's connection ended: %v", k.Err())
	}
}

// TestStaleWrite: the kernel gives up on a write that the server holds, gets another
// socket, and sends it again. The next socket is served once the first copy has
// landed, and not before: else it would land on what was written later (R2).
func TestStaleWrite(t *testing.T) {
	s := newServer(t)
	holding, release := make(chan struct{}), make(chan struct{})
	var held atomic.Bool
	s.memory.Hook = func(_ context.Context, c nbdtest.Call) error {
		if c.Op == "WriteAt" && !held.Swap(true) {
			close(holding)
			<-release
		}
		return nil
	}
	session := s.session(t, 2)
	k, first := device(t, session)
	gaveUp := make(chan error, 1)
	value := func(n byte) []byte { return bytes.Repeat([]byte{n}, 4096) }
	go func() { gaveUp <- k.WriteAt(context.Background(), value(1), 0, false) }()
	await(t, holding, "the write")
	must(t, unix.Shutdown(int(k.socket.Fd()), unix.SHUT_RDWR)) // as the kernel's timer does
	if err := <-gaveUp; err == nil {
		t.Fatal("a write was answered that has not landed")
	}
	first.Close()
	select {
	case <-first.Drained():
		t.Fatal("the link counts as drained while a write of it is under way")
	default:
	}
	close(release)
	await(t, first.Drained(), "the link to be drained")
	next, _ := device(t, session)
	must(t, next.WriteAt(t.Context(), value(1), 0, false))
	must(t, next.WriteAt(t.Context(), value(2), 0, false))
	got := make([]byte, 4096)
	must(t, next.ReadAt(t.Context(), got, 0))
	if !bytes.Equal(got, value(2)) {
		t.Errorf("the block holds %d, want 2", got[0])
	}
}

// TestPause: links of one socket after the other, each with a session of its own, as
// of processes that follow each other; under load nothing is lost, answered twice or
// wrong (R4).
func TestPause(t *testing.T) {
	s := newServer(t)
	theirs, ours, err := Pair()
	must(t, err)
	session := s.session(t, 2)
	k := newKernel(t, theirs, session.Info())
	l := serve(t, session, ours)
	stop := load(t, k, 6)
	for range 20 {
		next, err := l.File()
		must(t, err)
		must(t, k.Flush(t.Context())) // something has passed
		if !l.Pause(t.Context()) {
			t.Fatal("the link did not pause")
		}
		must(t, session.Close())
		session = s.session(t, 2)
		l = serve(t, session, next)
	}
	if n := stop(); n < 6 {
		t.Errorf("%d rounds of writing and reading", n)
	}
}

// TestPauseWithinARequest: a request that has begun to arrive is awaited, and what
// comes with its end is left for the next link (R4).
func TestPauseWithinARequest(t *testing.T) {
	session := newServer(t).session(t, 1)
	theirs, ours, err := Pair()
	must(t, err)
	defer func() { _ = theirs.Close() }()
	l := serve(t, session, ours)
	next, err := l.File()
	must(t, err)
	first, second := header(3, 0), header(3, 0)
	second[15] = 2 // its cookie
	for _, piece := range [][]byte{first[:10], first[10:20], append(first[20:], second...)} {
		_, err = theirs.Write(piece)
		must(t, err)
		for len(piece) == 10 && buffered(t, ours) > 0 { // until it is taken
			time.Sleep(time.Millisecond)
		}
		l.pausing.Store(true) // is seen after the second piece at the latest
	}
	if !l.Pause(t.Context()) {
		t.Fatal("the link did not pause")
	}
	if n := buffered(t, next); n != requestBytes {
		t.Errorf("%d bytes are left of a request of %d", n, requestBytes)
	}
	serve(t, session, next)
	answers := make([]byte, 2*replyBytes)
	_, err = io.ReadFull(theirs, answers)
	must(t, err)
	if answers[15] != 1 || answers[replyBytes+15] != 2 {
		t.Errorf("answers %x", answers)
	}
}

// buffered is how much there is to read.
func buffered(t *testing.T, f *os.File) int {
	t.Helper()
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCINQ)
	must(t, err)
	return n
}

// TestPauseIsBounded: a link whose requests are held does not pause; it is closed and
// answers nothing any more (R6), also when the session ends.
func TestPauseIsBounded(t *testing.T) {
	s := newServer(t)
	holding := make(chan struct{}, 1)
	s.memory.Hook = func(ctx context.Context, _ nbdtest.Call) error {
		holding <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	session := s.session(t, 1)
	theirs, ours, err := Pair()
	must(t, err)
	defer func() { _ = theirs.Close() }()
	l := serve(t, session, ours)
	_, err = theirs.Write(header(6, 4096))
	must(t, err)
	select {
	case <-holding:
	case <-time.After(patience):
		t.Fatal("the request does not come")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if l.Pause(ctx) {
		t.Error("a link paused with a request under way")
	}
	must(t, session.Close())
	await(t, l.Drained(), "the link to be drained")
	if got, err := io.ReadAll(theirs); err != nil || len(got) != 0 {
		t.Errorf("the kernel got %d bytes, %v: want the end", len(got), err)
	}
	if _, err := l.File(); !block.Is(err, block.Unavailable) {
		t.Errorf("a descriptor of a link that has ended: %v", err)
	}
}

func header(typ uint16, n uint32) []byte {
	h := binary.BigEndian.AppendUint32(nil, 0x25609513)
	h = binary.BigEndian.AppendUint16(h, 0)
	h = binary.BigEndian.AppendUint16(h, typ)
	h = binary.BigEndian.AppendUint64(h, 1)
	h = binary.BigEndian.AppendUint64(h, 0)
	return binary.BigEndian.AppendUint32(h, n)
}

// TestMisuse: what the kernel never sends ends the link, and so does its goodbye.
func TestMisuse(t *testing.T) {
	session := newServer(t).session(t, 1)
	for name, p := range map[string][]byte{
		"magic": make([]byte, 28), "type": header(5, 0), "a write that is too long": header(1, block.MaxRequestBytes+1),
		"a read that is too long": header(0, block.MaxRequestBytes+1), "disconnect": header(2, 0), "half a payload": append(header(1, 4096), 1, 2, 3),
	} {
		theirs, ours, err := Pair()
		must(t, err)
		l := serve(t, session, ours)
		_, err = theirs.Write(p)
		must(t, err)
		must(t, unix.Shutdown(int(theirs.Fd()), unix.SHUT_WR))
		await(t, l.Drained(), "the end after "+name)
		if got, err := io.ReadAll(theirs); err != nil || len(got) != 0 {
			t.Errorf("%s: the kernel got %d bytes, %v: want the end", name, len(got), err)
		}
		_ = theirs.Close()
	}
}

// TestHeldMemoryIsBounded: while the server answers nothing a link takes requests up
// to a bound; then all are answered (R5).
func TestHeldMemoryIsBounded(t *testing.T) {
	s := newServer(t)
	release := make(chan struct{})
	s.memory.Hook = func(context.Context, nbdtest.Call) error { <-release; return nil }
	k, l := device(t, s.session(t, 2))
	const each, all = 1 << 20, 3 * maxHeldBytes / (1 << 20)
	var wg sync.WaitGroup
	for range all {
		wg.Go(func() {
			if err := k.ReadAt(context.Background(), make([]byte, each), 0); err != nil {
				t.Error(err)
			}
		})
	}
	for begun := time.Now(); l.room.TryAcquire(each); time.Sleep(time.Millisecond) {
		l.room.Release(each)
		if time.Since(begun) > patience {
			t.Error("the link is never full")
			break
		}
	}
	close(release)
	wg.Wait()
	await(t, idle(l), "all room to be given back")
}

// idle is closed once no request of l holds memory.
func idle(l *Link) <-chan struct{} {
	c := make(chan struct{})
	go func() {
		defer close(c)
		if l.room.Acquire(context.Background(), maxHeldBytes) == nil {
			l.room.Release(maxHeldBytes)
		}
	}()
	return c
}

// BenchmarkLink is what a request of the kernel costs, all processes of it together.
func BenchmarkLink(b *testing.B) {
	for _, depth := range []int{1, 16} {
		for _, size := range []int{4096, 64 << 10} {
			for _, op := range []string{"read", "write"} {
				b.Run(fmt.Sprintf("%s %dk depth %d", op, size>>10, depth), func(b *testing.B) {
					s := newServer(b)
					fillRandom(b, s)
					k, _ := device(b, s.session(b, 1))
					measure(b, k.Conn, op == "write", size, depth)
				})
			}
		}
	}
}

// fillRandom makes the export hold what is not zero, of which replies have no data.
func fillRandom(b *testing.B, s *server) {
	b.Helper()
	session, p := s.session(b, 1), make([]byte, block.MaxRequestBytes)
	_, _ = rand.NewChaCha8([32]byte{4}).Read(p)
	must(b, session.WriteAt(b.Context(), p, 0, false))
	must(b, session.Close()) // two would take the connection from each other
}

// measure does b.N requests, depth at a time, and reports CPU time.
func measure(b *testing.B, c *nbdclient.Conn, write bool, size, depth int) {
	b.SetBytes(int64(size))
	var next atomic.Int64
	var wg sync.WaitGroup
	before := cpu()
	b.ResetTimer()
	for range depth {
		wg.Go(func() {
			p := make([]byte, size)
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				var err error
				if at := uint64(i%256) * uint64(size); write {
					err = c.WriteAt(context.Background(), p, at, false)
				} else {
					err = c.ReadAt(context.Background(), p, at)
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(cpu()-before)/float64(b.N)/1e3, "cpu-us/op")
}

// cpu is the CPU time of this process in nanoseconds.
func cpu() int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
