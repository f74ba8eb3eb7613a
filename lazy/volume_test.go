package lazy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/blockcache"
	"github.com/slackerd/slacker/boottrace"
	"github.com/slackerd/slacker/nbdclient"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testBlocks = 256
	testBytes  = testBlocks * block.Size
)

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func mustDo(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// baseContent is what a snapshot holds, each sixth block zero.
func baseContent(id string) []byte {
	p := make([]byte, testBytes)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(id))).Read(p)
	for i := range testBlocks {
		if i%6 == 5 {
			clear(p[i*block.Size : (i+1)*block.Size])
		}
	}
	return p
}

// bed is a server of clones, and a worker with a cache.
type bed struct {
	t      *testing.T
	memory *nbdtest.Memory
	socket string
	dir    string
	reads  atomic.Int64 // bytes that were asked for
	// reading is called before each read of the server.
	reading atomic.Pointer[func(offBytes uint64)]
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{t: t, memory: nbdtest.NewMemory("none", nbdtest.DefaultInfo(block.Size)), dir: filepath.Join(t.TempDir(), "cache")}
	server := must[*nbdserver.Server](t)(nbdserver.New(b, nbdserver.Options{Limits: nbdserver.DefaultLimits()}))
	b.socket = filepath.Join(t.TempDir(), "s")
	l := must[net.Listener](t)(net.Listen("unix", b.socket))
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		server.Close()
		_ = l.Close()
		<-done
	})
	return b
}

func (b *bed) Open(ctx context.Context, name string, conn nbdserver.Conn, disconnect func(error)) (nbdserver.Device, error) {
	d, err := b.memory.Open(ctx, name, conn, disconnect)
	if err != nil {
		return nil, err
	}
	return watched{d, b}, nil
}

func (b *bed) List(ctx context.Context, conn nbdserver.Conn) ([]nbdserver.Export, error) {
	return b.memory.List(ctx, conn)
}

// watched counts reads, and calls the hook before each.
type watched struct {
	nbdserver.Device
	b *bed
}

func (d watched) ReadNow([]byte, uint64) (bool, error) { return false, nil }

func (d watched) ReadAt(ctx context.Context, p []byte, off uint64) error {
	d.b.reads.Add(int64(len(p)))
	if f := d.b.reading.Load(); f != nil {
		(*f)(off)
	}
	return d.Device.ReadAt(ctx, p, off)
}

// clone makes a volume of a base at the server.
func (b *bed) clone(name, base string) {
	b.t.Helper()
	b.memory.Add(name, nbdtest.DefaultInfo(testBytes))
	d := must[nbdserver.Device](b.t)(b.memory.Open(context.Background(), name, nbdserver.Conn{}, func(error) {}))
	mustDo(b.t, d.WriteAt(context.Background(), baseContent(base), 0, false))
	mustDo(b.t, d.Close())
}

// attached is a volume that the worker uses.
type attached struct {
	t       *testing.T
	session *nbdclient.Session
	volume  *Volume
	end     func()
}

// attach uses a volume. A nil dirty means that it is known to be clean.
func (b *bed) attach(name, base string, dirty func(context.Context, uint64) ([]uint64, uint64, error)) *attached {
	b.t.Helper()
	return b.attachWith(name, base, Options{Clean: dirty == nil, Dirty: dirty})
}

// attachAhead is attach with a trace.
func (b *bed) attachAhead(name, base string, trace []boottrace.Run, f *fetching) *attached {
	b.t.Helper()
	return b.attachWith(name, base, Options{Clean: true, Trace: trace, Fetch: f.fetch})
}

func (b *bed) attachWith(name, base string, o Options) *attached {
	b.t.Helper()
	opts := nbdclient.DefaultSessionOptions()
	session := must[*nbdclient.Session](b.t)(nbdclient.OpenSession(context.Background(), []string{"unix://" + b.socket}, name, opts))
	mustDo(b.t, session.AwaitSlots(context.Background())) // so that large requests go elsewhere than small ones
	cache := must[*blockcache.Cache](b.t)(blockcache.Open(b.dir, 1<<30))
	kept := must[*blockcache.Base](b.t)(cache.Base("server", base, testBytes))
	o.Base, o.Log = kept, zap.NewNop()
	v := must[*Volume](b.t)(New(session, o))
	a := &attached{t: b.t, session: session, volume: v}
	a.end = sync.OnceFunc(func() {
		mustDo(b.t, session.Close())
		mustDo(b.t, v.Close())
	})
	b.t.Cleanup(a.end)
	return a
}

// start starts a request; the channel gets its error.
func (a *attached) start(op nbdclient.Op, p []byte, off uint64) <-chan error {
	done := make(chan error, 1)
	batch := a.volume.NewBatch()
	batch.Submit(&nbdclient.Request{Op: op, OffBytes: off, Data: p, Done: func(_ *nbdclient.Request, err error) { done <- err }})
	batch.Send()
	return done
}

const patience = time.Minute

func await(t testing.TB, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		mustDo(t, err)
	case <-time.After(patience):
		t.Fatal("a request is not answered")
	}
}

func (a *attached) read(off uint64, n int) []byte {
	a.t.Helper()
	p := make([]byte, n)
	await(a.t, a.start(nbdclient.OpRead, p, off))
	return p
}

func (a *attached) write(p []byte, off uint64) {
	a.t.Helper()
	await(a.t, a.start(nbdclient.OpWrite, p, off))
}

func (a *attached) want(what string, off uint64, want []byte) {
	a.t.Helper()
	if got := a.read(off, len(want)); !bytes.Equal(got, want) {
		a.t.Fatalf("%s: %d bytes at %d are wrong", what, len(want), off)
	}
}

func (a *attached) settle() Stats {
	a.t.Helper()
	a.end()
	return a.volume.Stats()
}

// TestSecondCloneReadsNothing: what one clone of a snapshot has read, another
// does not ask for; one of another snapshot does.
func TestSecondCloneReadsNothing(t *testing.T) {
	b := newBed(t)
	content := baseContent("s")
	b.clone("one", "s")
	b.clone("two", "s")
	b.clone("other", "t")
	one := b.attach("one", "s", nil)
	one.want("the first clone", 0, content)
	one.want("the first clone again", 0, content)
	if s := one.settle(); s.FilledBytes < testBytes || s.MissBytes < testBytes {
		t.Errorf("the first clone: %+v", s)
	}
	b.reads.Store(0)
	two := b.attach("two", "s", nil)
	two.want("the second clone", 0, content)
	two.want("some of it", 20*block.Size, content[20*block.Size:50*block.Size])
	if n := b.reads.Load(); n != 0 {
		t.Errorf("the second clone asked for %d bytes", n)
	}
	b.attach("other", "t", nil).want("a clone of another snapshot", 0, baseContent("t"))
	if n := b.reads.Load(); n != testBytes {
		t.Errorf("the clone of another snapshot asked for %d bytes", n)
	}
}

// TestWritesAreSeen: after a write, a zeroing, of a part of a block too, the
// volume's data is read, and never by another clone (Z1).
func TestWritesAreSeen(t *testing.T) {
	b := newBed(t)
	content := baseContent("s")
	b.clone("one", "s")
	b.clone("two", "s")
	one := b.attach("one", "s", nil)
	one.want("before", 0, content)
	now := bytes.Clone(content)
	for _, w := range []struct{ off, n uint64 }{{0, block.Size}, {10*block.Size + 100, 17}, {20*block.Size - 1, 2}, {30 * block.Size, 9 * block.Size}, {testBytes - 1, 1}} {
		p := bytes.Repeat([]byte{0xAA}, int(w.n))
		copy(now[w.off:], p)
		one.write(p, w.off)
		one.want("a write", 0, now)
	}
	mustDo(t, one.volume.WriteZeroes(t.Context(), 50*block.Size+1, 3*block.Size, false, false))
	clear(now[50*block.Size+1:][:3*block.Size])
	one.want("a zeroing", 0, now)
	one.want("a part of a block", 10*block.Size+100, now[10*block.Size+100:][:17])
	one.settle()
	b.attach("two", "s", nil).want("the other clone", 0, content)
}

// TestReplyOfAWrite: a read that was sent before a write and answered after it
// has the write's data, which must not be kept as the snapshot's (Z2).
func TestReplyOfAWrite(t *testing.T) {
	b := newBed(t)
	b.clone("one", "s")
	b.clone("two", "s")
	one := b.attach("one", "s", nil)
	arrived, goOn := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(arrived) })
	hold := func(uint64) { once(); <-goOn }
	b.reading.Store(&hold)
	p := make([]byte, 8*block.Size)
	done := one.start(nbdclient.OpRead, p, 0)
	<-arrived
	one.write(bytes.Repeat([]byte{0xBB}, 8*block.Size), 3*block.Size) // large ones go over another connection
	b.reading.Store(nil)
	close(goOn)
	await(t, done)
	if p[3*block.Size] != 0xBB {
		t.Fatal("the read was not answered after the write: this tests nothing")
	}
	if s := one.settle(); s.FilledBytes != 3*block.Size {
		t.Errorf("%d bytes were kept, want the 3 blocks before it", s.FilledBytes)
	}
	b.attach("two", "s", nil).want("the other clone", 0, baseContent("s"))
}

// dirtyOf answers that some blocks are dirty, a part of the volume at a time.
func dirtyOf(blocks ...uint64) func(context.Context, uint64) ([]uint64, uint64, error) {
	return func(_ context.Context, off uint64) (runs []uint64, end uint64, err error) {
		end = min(off+40*block.Size, testBytes)
		for _, i := range blocks {
			if at := i * block.Size; at >= off && at < end {
				runs = append(runs, at, block.Size)
			}
		}
		return runs, end, nil
	}
}

// TestAttachedAnew: what an earlier attachment, or process, has written is read
// from the volume; until the server has told what that is, all is (Z3).
func TestAttachedAnew(t *testing.T) {
	b := newBed(t)
	now := baseContent("s")
	b.clone("warm", "s")
	b.clone("v", "s")
	b.attach("warm", "s", nil).want("a clean clone", 0, now)
	first := b.attach("v", "s", nil)
	for _, i := range []uint64{0, 63, 64, 100, 255} {
		p := bytes.Repeat([]byte{byte(i), 1}, block.Size/2)
		copy(now[i*block.Size:], p)
		first.write(p, i*block.Size)
	}
	first.settle()

	told := make(chan struct{})
	answer := dirtyOf(0, 63, 64, 100, 255)
	again := b.attach("v", "s", func(ctx context.Context, off uint64) ([]uint64, uint64, error) {
		select {
		case <-told:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
		return answer(ctx, off)
	})
	again.want("before the server has told", 0, now)
	close(told)
	again.volume.running.Wait()
	b.reads.Store(0)
	again.want("after it", 0, now)
	again.want("clean blocks", 101*block.Size, now[101*block.Size:255*block.Size])
	if n := b.reads.Load(); n != testBytes {
		t.Errorf("%d bytes were asked for, want all of a range that is not clean and nothing of a clean one", n)
	}
	again.settle()

	for what, ask := range map[string]func(context.Context, uint64) ([]uint64, uint64, error){
		"a failure":   func(context.Context, uint64) ([]uint64, uint64, error) { return nil, 0, errors.New("away") },
		"no progress": func(_ context.Context, off uint64) ([]uint64, uint64, error) { return nil, off, nil },
		"half a run":  func(context.Context, uint64) ([]uint64, uint64, error) { return []uint64{1}, testBytes, nil },
		"runs beyond everything": func(context.Context, uint64) ([]uint64, uint64, error) {
			return []uint64{0, ^uint64(0)}, ^uint64(0), nil
		},
	} {
		a := b.attach("v", "s", ask)
		a.volume.running.Wait()
		a.want(what, 0, now)
		if s := a.settle(); s.HitBytes != 0 {
			t.Errorf("%s: %+v", what, s)
		}
	}
}

// TestLostIsLost: once the server has refused the session nothing is answered (Z5).
func TestLostIsLost(t *testing.T) {
	b := newBed(t)
	b.clone("v", "s")
	a := b.attach("v", "s", nil)
	a.want("the volume", 0, baseContent("s"))
	mustDo(t, a.session.Close())
	select {
	case err := <-a.start(nbdclient.OpWrite, make([]byte, block.Size), 0):
		if err == nil {
			t.Error("a closed session writes")
		}
	case <-time.After(patience):
		t.Fatal("not answered")
	}
}

// TestRandom: readers and writers of one clone after another, all at once, see
// their own writes and else the snapshot; read plainly, or fetched by windows, some
// of which fail.
func TestRandom(t *testing.T) {
	t.Run("near", func(t *testing.T) { testRandom(t, false) })
	t.Run("far", func(t *testing.T) { testRandom(t, true) })
}

func testRandom(t *testing.T, far bool) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	b := newBed(t)
	const places, each = 4, testBlocks / 4
	for round := range 4 {
		base := fmt.Sprint(round % 2)
		name := fmt.Sprintf("v%d", round)
		b.clone(name, base)
		o := Options{Clean: true}
		if far {
			o.Trace, o.Fetch = testTrace, newFetching(base).often(round)
		}
		a := b.attachWith(name, base, o)
		a.begin()
		var all sync.WaitGroup
		for place := range places {
			rng := rand.New(rand.NewPCG(seed, uint64(round*places+place)))
			from := place * each * block.Size
			now := baseContent(base)
			all.Go(func() {
				for range 60 {
					off := rng.IntN(each*block.Size - 1)
					n := 1 + rng.IntN(min(each*block.Size-off, 20*block.Size))
					if rng.IntN(2) == 0 { // as a file system does
						off, n = off/block.Size*block.Size, max(n/block.Size, 1)*block.Size
						n = min(n, each*block.Size-off)
					}
					at := from + off
					var done <-chan error
					var p []byte
					switch rng.IntN(8) {
					case 0:
						p = bytes.Repeat([]byte{byte(rng.Uint32())}, n)
						done = a.start(nbdclient.OpWrite, p, uint64(at))
						copy(now[at:], p)
						p = nil
					case 1:
						err := a.volume.WriteZeroes(context.Background(), uint64(at), uint64(n), false, false)
						clear(now[at : at+n])
						failed := make(chan error, 1)
						failed <- err
						done = failed
					case 2: // across the places of others, whose blocks may be written meanwhile
						done = a.start(nbdclient.OpRead, make([]byte, testBytes), 0)
					default:
						p = make([]byte, n)
						done = a.start(nbdclient.OpRead, p, uint64(at))
					}
					if err := <-done; err != nil {
						t.Error(err)
						return
					}
					if p != nil && !bytes.Equal(p, now[at:at+n]) {
						t.Errorf("round %d, place %d: %d bytes at %d are wrong", round, place, n, at)
						return
					}
				}
			})
		}
		all.Wait()
		if s := a.settle(); round > 1 && s.HitBytes == 0 {
			t.Errorf("round %d: nothing was found: %+v", round, s)
		}
		fresh := fmt.Sprintf("w%d", round)
		b.clone(fresh, base)
		c := b.attach(fresh, base, nil)
		c.want("a fresh clone", 0, baseContent(base))
		c.settle()
	}
}
