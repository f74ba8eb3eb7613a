package lazy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/boottrace"
	"github.com/slackerd/slacker/nbdclient"
)

// fetching is a Fetch that is under the control of a test.
type fetching struct {
	content []byte
	fetched atomic.Int64 // bytes
	calls   atomic.Int64
	gate    chan struct{} // nil, or fetches wait until it is closed
	free    uint64        // fetches that begin before this block do not
	held    uint64        // but for those of more blocks than these; 0: none
	began   chan struct{} // closed when the first has begun
	once    sync.Once
	err     error
}

func newFetching(base string) *fetching {
	return &fetching{content: baseContent(base), began: make(chan struct{})}
}

func (f *fetching) fetch(ctx context.Context, runs []boottrace.Run, p []byte) error {
	f.calls.Add(1)
	blocks := uint64(len(p) / block.Size)
	if f.gate != nil && (runs[0].First >= f.free || f.held > 0 && blocks > f.held) {
		f.once.Do(func() { close(f.began) })
		select {
		case <-f.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if f.err != nil {
		return f.err
	}
	f.fetched.Add(int64(len(p)))
	for _, r := range runs {
		p = p[copy(p, f.content[r.First*block.Size:(r.First+r.Count)*block.Size]):]
	}
	if len(p) != 0 {
		return fmt.Errorf("%d bytes too many were asked for", len(p))
	}
	return nil
}

// often is fetch, of which in odd rounds each third fails.
func (f *fetching) often(round int) func(context.Context, []boottrace.Run, []byte) error {
	return func(ctx context.Context, runs []boottrace.Run, p []byte) error {
		if f.calls.Load()%3 == 2 && round%2 == 1 {
			f.calls.Add(1)
			return errors.New("away")
		}
		return f.fetch(ctx, runs, p)
	}
}

// begin lets the volume know that the server is far.
func (a *attached) begin() { a.volume.distance.sample(time.Second) }

var testTrace = []boottrace.Run{{First: 100, Count: 30}, {First: 3, Count: 5}, {First: 200, Count: 1}, {First: 110, Count: 40}}

// TestPrefetch: the blocks of the trace are there when they are read, once each,
// but for those that were written.
func TestPrefetch(t *testing.T) {
	b := newBed(t)
	b.clone("v", "s")
	f := newFetching("s")
	a := b.attachAhead("v", "s", testTrace, f)
	now := baseContent("s")
	p := bytes.Repeat([]byte{9}, 3*block.Size)
	copy(now[4*block.Size:], p)
	a.write(p, 4*block.Size)
	a.begin()
	a.volume.running.Wait()
	if want := int64((50 + 2 + 1) * block.Size); f.fetched.Load() != want {
		t.Errorf("%d bytes were fetched, want %d", f.fetched.Load(), want)
	}
	b.reads.Store(0)
	a.want("what was fetched", 100*block.Size, now[100*block.Size:150*block.Size])
	a.want("what was fetched", 200*block.Size, now[200*block.Size:201*block.Size])
	if n := b.reads.Load(); n != 0 {
		t.Errorf("the server was asked for %d bytes of what was fetched", n)
	}
	if s := a.volume.Stats(); s.PrefetchedBytes != 53*block.Size {
		t.Errorf("%+v", s)
	}
	a.want("everything", 0, now)
	a.settle()

	// What is in the cache is not fetched.
	b.clone("w", "s")
	f = newFetching("s")
	a = b.attachAhead("w", "s", testTrace, f)
	a.begin()
	a.volume.running.Wait()
	if n := f.fetched.Load(); n > 3*block.Size {
		t.Errorf("%d bytes of the cache were fetched again", n)
	}
}

// TestReadWaitsForWhatFlies, and no other read does; a write meanwhile is seen, and
// does not get into the cache (Z6).
func TestReadWaitsForWhatFlies(t *testing.T) {
	b := newBed(t)
	b.clone("v", "s")
	f := newFetching("s")
	f.gate, f.free = make(chan struct{}), 64
	a := b.attachAhead("v", "s", testTrace, f)
	content := baseContent("s")
	a.begin()
	<-f.began
	a.want("what does not fly", 40*block.Size, content[40*block.Size:41*block.Size])
	b.reads.Store(0)
	p := make([]byte, 4*block.Size)
	waiting := a.start(nbdclient.OpRead, p, 104*block.Size)
	// The block that is written flies, but a read of it does not wait.
	a.write(bytes.Repeat([]byte{7}, block.Size), 101*block.Size)
	a.want("what was written", 101*block.Size, bytes.Repeat([]byte{7}, block.Size))
	select {
	case err := <-waiting:
		t.Fatalf("a read of what flies was answered: %v", err)
	default:
	}
	close(f.gate)
	await(t, waiting)
	if !bytes.Equal(p, content[104*block.Size:108*block.Size]) {
		t.Error("the read that waited is wrong")
	}
	if n := b.reads.Load(); n != block.Size {
		t.Errorf("the server was asked for %d bytes, want the block that was written", n)
	}
	a.volume.running.Wait()
	a.want("what was written", 101*block.Size, bytes.Repeat([]byte{7}, block.Size))
	a.settle()
	b.clone("w", "s")
	b.attach("w", "s", nil).want("another clone", 0, content)
}

// TestFetchFails: a read that waits for a fetch that fails, or is given up, is
// answered by the server, or ends with the volume.
func TestFetchFails(t *testing.T) {
	b := newBed(t)
	b.clone("v", "s")
	f := newFetching("s")
	f.gate, f.err = make(chan struct{}), errors.New("away")
	a := b.attachAhead("v", "s", testTrace, f)
	a.begin()
	<-f.began
	p := make([]byte, 4*block.Size)
	waiting := a.start(nbdclient.OpRead, p, 104*block.Size)
	close(f.gate)
	await(t, waiting)
	if !bytes.Equal(p, baseContent("s")[104*block.Size:108*block.Size]) {
		t.Error("the read is wrong")
	}
	a.volume.running.Wait()
	n := f.calls.Load()
	a.want("what is read after a failure", 0, baseContent("s")[:2*block.Size])
	if f.calls.Load() != n {
		t.Error("it was fetched at once after a failure")
	}
	a.settle()

	f = newFetching("s")
	f.gate = make(chan struct{})
	a = b.attachAhead("v", "s", testTrace, f)
	a.begin()
	<-f.began
	waiting = a.start(nbdclient.OpRead, p, 105*block.Size)
	a.end()
	select {
	case <-waiting: // whatever it says
	case <-time.After(patience):
		t.Error("a read is not answered when its volume ends")
	}
}

// TestOneFollows: of two clones of a base one fetches what was foreseen, and the other
// finds it (Z6).
func TestOneFollows(t *testing.T) {
	b := newBed(t)
	b.clone("v", "s")
	b.clone("w", "s")
	first, second := newFetching("s"), newFetching("s")
	first.gate = make(chan struct{})
	second.gate = first.gate
	v := b.attachAhead("v", "s", testTrace, first)
	v.begin()
	<-first.began
	w := b.attachAhead("w", "s", testTrace, second)
	w.begin()
	select {
	case <-second.began:
		t.Error("both fetch")
	case <-time.After(3 * leadInterval): // it has looked
	}
	close(first.gate)
	v.volume.running.Wait()
	w.volume.running.Wait()
	if n := second.calls.Load(); n != 0 {
		t.Errorf("%d fetches of what another fetches", n)
	}
	w.want("what the other has fetched", 100*block.Size, baseContent("s")[100*block.Size:150*block.Size])
	v.end()
	w.end()
}

// TestFetchAround: what a read misses is fetched with what lies around it that is
// clean and not there, by one request; and answered and kept.
func TestFetchAround(t *testing.T) {
	b := newBed(t)
	b.clone("v", "s")
	f := newFetching("s")
	a := b.attachAhead("v", "s", nil, f)
	now := baseContent("s")
	a.want("while nothing is known of the link", 40*block.Size, now[40*block.Size:41*block.Size])
	a.write(bytes.Repeat([]byte{3}, 2*block.Size), 34*block.Size)
	copy(now[34*block.Size:], bytes.Repeat([]byte{3}, 2*block.Size))
	a.begin()
	b.reads.Store(0)
	a.want("two blocks", 50*block.Size, now[50*block.Size:52*block.Size])
	a.volume.running.Wait() // until it is kept
	if n, c := f.fetched.Load(), f.calls.Load(); c != 1 || n > 30*block.Size || n < 29*block.Size {
		t.Errorf("%d bytes by %d requests, want a window without what was written, or read", n, c)
	}
	a.want("the window", 36*block.Size, now[36*block.Size:64*block.Size])
	if n := f.calls.Load(); n != 1 || b.reads.Load() != 0 {
		t.Errorf("%d fetches, %d bytes from the session", n, b.reads.Load())
	}
	a.want("all", 0, now)
	a.settle()
	b.clone("w", "s")
	b.attach("w", "s", nil).want("another clone", 0, baseContent("s"))
}

// TestFetchAroundApart: a large read does not wait for what is fetched around it.
func TestFetchAroundApart(t *testing.T) {
	b := newBed(t)
	b.clone("v", "s")
	f := newFetching("s")
	f.gate, f.free = make(chan struct{}), 64
	a := b.attachAhead("v", "s", nil, f)
	a.begin()
	content := baseContent("s")
	f.held = smallBlocks + 1
	a.want("a large one", 40*block.Size, content[40*block.Size:(40+smallBlocks+1)*block.Size])
	<-f.began
	waiting := a.start(nbdclient.OpRead, make([]byte, block.Size), 60*block.Size)
	close(f.gate)
	await(t, waiting)
	if n := f.calls.Load(); n != 2 {
		t.Errorf("%d fetches", n)
	}
}

// TestFetchWhatIsForeseen: with a trace that has what was missed, only what it has
// is fetched around that.
func TestFetchWhatIsForeseen(t *testing.T) {
	b := newBed(t)
	b.clone("v", "s")
	f := newFetching("s")
	f.gate, f.free = make(chan struct{}), 100
	trace := []boottrace.Run{{First: 100, Count: batchBlocks}, {First: 170, Count: batchBlocks}, {First: 64, Count: 2}, {First: 70, Count: 3}}
	a := b.attachAhead("v", "s", trace, f)
	a.begin()
	<-f.began
	a.want("foreseen", 71*block.Size, baseContent("s")[71*block.Size:72*block.Size])
	if n := f.fetched.Load(); n != 5*block.Size {
		t.Errorf("%d bytes were fetched", n)
	}
	a.want("not foreseen", 10*block.Size, baseContent("s")[10*block.Size:11*block.Size])
	if n := f.fetched.Load(); n <= 6*block.Size {
		t.Errorf("%d bytes were fetched", n)
	}
	close(f.gate)
}

// TestFetchIntoNothing: where the cache keeps nothing each read is fetched once, and
// answered with it (Z6).
func TestFetchIntoNothing(t *testing.T) {
	b := newBed(t)
	b.clone("v", "s")
	f := newFetching("s")
	f.gate = make(chan struct{})
	a := b.attachAhead("v", "s", nil, f)
	mustDo(t, os.RemoveAll(b.dir)) // it is noticed when more than a step was filled
	a.volume.base.Fill(make([]byte, 2*block.Size), 254*block.Size)
	a.begin()
	b.reads.Store(0)
	p, q := make([]byte, 4*block.Size), make([]byte, 8*block.Size)
	one := a.start(nbdclient.OpRead, p, 32*block.Size)
	<-f.began
	two := a.start(nbdclient.OpRead, q, 28*block.Size) // half of it flies
	close(f.gate)
	await(t, one)
	await(t, two)
	if !bytes.Equal(p, baseContent("s")[32*block.Size:36*block.Size]) || !bytes.Equal(q, baseContent("s")[28*block.Size:36*block.Size]) {
		t.Error("a read is wrong")
	}
	if n := b.reads.Load(); n != 0 || f.calls.Load() != 2 {
		t.Errorf("%d fetches, and %d bytes from the session", f.calls.Load(), n)
	}
}

// TestFetchesAreBounded: what is too much at once is read from the session (Z7).
func TestFetchesAreBounded(t *testing.T) {
	b := newBed(t)
	b.clone("v", "s")
	f := newFetching("s")
	f.gate = make(chan struct{})
	a := b.attachAhead("v", "s", nil, f)
	a.begin()
	a.volume.fetcher.window.blocks = 16
	content := baseContent("s")
	var waiting []<-chan error
	for i := range uint64(maxDemands - 1) {
		waiting = append(waiting, a.start(nbdclient.OpRead, make([]byte, block.Size), i*16*block.Size))
	}
	b.reads.Store(0)
	a.want("one too many", 255*block.Size, content[255*block.Size:])
	if n := b.reads.Load(); n != block.Size {
		t.Errorf("the session was asked for %d bytes", n)
	}
	close(f.gate)
	for _, w := range waiting {
		await(t, w)
	}
}

// TestWindow grows and shrinks with what the link can do.
func TestWindow(t *testing.T) {
	w := window{blocks: firstWindowBlocks}
	for range 10 {
		w.adapt(5*time.Millisecond, 4*time.Millisecond)
	}
	if w.blocks != maxWindowBlocks {
		t.Errorf("%d blocks where fetches take no longer than reads", w.blocks)
	}
	w.adapt(12*time.Millisecond, 4*time.Millisecond)
	if w.blocks != maxWindowBlocks {
		t.Errorf("%d blocks where it is right", w.blocks)
	}
	for range 10 {
		w.adapt(17*time.Millisecond, 4*time.Millisecond)
	}
	if w.blocks != minWindowBlocks {
		t.Errorf("%d blocks where all take long", w.blocks)
	}
}

// TestNothingAheadWhenNear: a server that answers at once is not asked ahead.
func TestNothingAheadWhenNear(t *testing.T) {
	b := newBed(t)
	b.clone("v", "s")
	f := newFetching("s")
	a := b.attachAhead("v", "s", testTrace, f)
	for range samples {
		a.volume.distance.sample(20 * time.Microsecond)
	}
	a.volume.running.Wait()
	if n := f.fetched.Load(); n != 0 {
		t.Errorf("%d bytes were fetched", n)
	}
}

// TestRecord: the first reading of each clean block, in order; and what is news.
func TestRecord(t *testing.T) {
	b := newBed(t)
	b.clone("v", "s")
	a := b.attach("v", "s", nil)
	a.write(make([]byte, block.Size), 50*block.Size)
	for _, r := range []struct{ first, n int }{{100, 4}, {104, 4}, {20, 2}, {98, 12}, {50, 1}, {21, 1}} {
		a.read(uint64(r.first)*block.Size, r.n*block.Size)
	}
	want := []boottrace.Run{{First: 100, Count: 8}, {First: 20, Count: 2}, {First: 98, Count: 2}, {First: 108, Count: 2}}
	if got := a.volume.News(); !slices.Equal(got, want) {
		t.Errorf("recorded %v, want %v", got, want)
	}
	r := a.volume.recorder
	for what, tc := range map[string]struct {
		old  []boottrace.Run
		news bool
	}{
		"nothing was known":       {nil, true},
		"it was known":            {want, false},
		"more was known":          {[]boottrace.Run{{First: 0, Count: 256}}, false},
		"other things were known": {[]boottrace.Run{{First: 150, Count: 50}}, true},
		"a seventh was not":       {want[:3], true},
		"one of fourteen was not": {append(slices.Clone(want[:3]), boottrace.Run{First: 108, Count: 1}), false},
	} {
		if got := r.news(tc.old) != nil; got != tc.news {
			t.Errorf("%s: news %v", what, got)
		}
	}
}

// TestRecordEnds at its limits.
func TestRecordEnds(t *testing.T) {
	r := newRecorder(1 << 40)
	for i := range uint64(2 * maxRecordRuns) {
		r.note(3*i, 3*i+1)
	}
	if !r.over.Load() || len(r.runs) > maxRecordRuns {
		t.Errorf("%d runs, over %v", len(r.runs), r.over.Load())
	}
	r = newRecorder(1 << 40)
	for i := range uint64(100) {
		r.note(i*1000, i*1000+1000)
	}
	if !r.over.Load() || r.blocks > boottrace.MaxBlocks {
		t.Errorf("%d blocks, over %v", r.blocks, r.over.Load())
	}
	r = newRecorder(1 << 40)
	for i := range uint64(recordSeconds + 1) {
		r.last = 0 // another second
		r.note(2*i, 2*i+1)
	}
	if !r.over.Load() || r.blocks != recordSeconds {
		t.Errorf("%d blocks after %d seconds with reads", r.blocks, r.seconds)
	}
}
