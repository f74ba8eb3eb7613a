package volume

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/gc"
)

var (
	linearSeed = flag.Uint64("linear.seed", 0, "run the test of concurrent histories with this seed only, 100 times")
	linearRuns = flag.Int("linear.runs", 15, "how many seeds the test of concurrent histories runs")
)

const (
	linearSlots   = 3 // connections of the volume at a time
	linearWorkers = 2 // goroutines of each
	linearOps     = 70
	linearPercent = 50 // how often an operation of the file system yields
)

// linearBlocks are the registers: blocks beside one another and in two pages.
var linearBlocks = []block.Index{0, 1, 255, 256, 600}

// content is what the two halves of a block hold. A write of one half reads and
// writes the block, so that two of them must not meet.
type content [2]tag

func readContent(b []byte) (c content, whole bool) {
	whole = true
	for i := range c {
		half := b[i*block.Size/2 : (i+1)*block.Size/2]
		c[i] = tag(uint64(half[0]) | uint64(half[1])<<8 | uint64(half[2])<<16)
		want := make([]byte, len(half))
		c[i].fill(want)
		whole = whole && string(want) == string(half)
	}
	return c, whole
}

type opKind int

const (
	opRead opKind = iota
	opWrite
	opFlush // of the store: of every register
	opCrash // what the register holds after the power went
)

// operation is one call on one register. Times are of the history's clock,
// which counts events.
type operation struct {
	kind      opKind
	register  int
	client    int
	halves    [2]bool // that a write writes
	tag       tag     // that it writes
	got       content // that a read returned
	kept      bool    // a write that is durable when it returns
	conn      *linearConn
	call, ret int64
	err       error
}

func (o *operation) String() string {
	what := [...]string{"read", "write", "flush", "crash"}[o.kind]
	s := fmt.Sprintf("%6d..%-6d client %d %s", o.call, o.ret, o.client, what)
	switch o.kind {
	case opRead, opCrash:
		s += fmt.Sprintf(" = %v", o.got)
	case opWrite:
		s += fmt.Sprintf(" %d to halves %v kept=%v", o.tag, o.halves, o.kept)
	}
	if o.err != nil {
		s += ": " + o.err.Error()
	}
	return s
}

// linearConn is one connection. fenced is when the call returned that replaced
// it: after that nothing of it takes effect (V4).
type linearConn struct {
	d      *Device
	fenced int64
}

type linearSlot struct {
	mu    sync.Mutex // held while the connection is replaced
	conn  atomic.Pointer[linearConn]
	conns []*linearConn
}

// wait returns when the connection is not being replaced.
func (sl *linearSlot) wait() {
	sl.mu.Lock()
	defer sl.mu.Unlock()
}

type linearSnap struct {
	name           string
	call, ret, end int64 // end: when its deletion began, or 0
}

type linearCut struct {
	fs            *vfs.MemFS
	kind          cutKind
	before, after int64
}

// linear runs concurrent operations on one volume and records them.
type linear struct {
	t      *testing.T
	seed   uint64
	fs     *vfs.MemFS
	s      *Store
	export string
	slots  [linearSlots]linearSlot
	clock  atomic.Int64
	tags   atomic.Uint64
	cutAt  atomic.Int64 // the clock at which the next cut is made

	mu      sync.Mutex
	ops     []*operation
	snaps   []*linearSnap
	cuts    []*linearCut
	cutting sync.Mutex
}

func (h *linear) fatalf(format string, args ...any) {
	h.t.Helper()
	h.t.Fatalf("seed %d: %s", h.seed, fmt.Sprintf(format, args...))
}

func (h *linear) now() int64 { return h.clock.Add(1) }

// do records a call around fn. A fenced one may have happened.
func (h *linear) do(o *operation, fn func() error) error {
	o.call = h.now()
	o.err = fn()
	o.ret = h.now()
	h.mu.Lock()
	h.ops = append(h.ops, o)
	h.mu.Unlock()
	if o.err != nil && (o.conn == nil || !block.Is(o.err, block.Fenced)) {
		h.t.Errorf("seed %d: %v", h.seed, o)
	}
	return o.err
}

// renew replaces the connection of a slot; operations of the old one may be in
// progress.
func (h *linear) renew(slot int) {
	sl := &h.slots[slot]
	sl.mu.Lock()
	defer sl.mu.Unlock()
	d, err := h.s.Open(context.Background(), fmt.Sprintf("%s.%d.%d", h.export, slot, len(sl.conns)+1), "linear", nil)
	if err != nil {
		h.t.Errorf("seed %d: renew: %v", h.seed, err)
		return
	}
	if old := sl.conn.Load(); old != nil {
		old.fenced = h.now()
	}
	c := &linearConn{d: d}
	sl.conns = append(sl.conns, c)
	sl.conn.Store(c)
}

// work is one client: reads and writes of registers, flushes, now and then a
// new connection.
func (h *linear) work(client int) {
	rng := rand.New(rand.NewPCG(h.seed, uint64(client)))
	slot := client % linearSlots
	ctx := context.Background()
	buf := make([]byte, block.Size)
	for range linearOps {
		sl := &h.slots[slot]
		o := &operation{client: client, register: rng.IntN(len(linearBlocks)), conn: sl.conn.Load()}
		off := uint64(linearBlocks[o.register]) * block.Size
		var err error
		switch k := rng.IntN(100); {
		case k < 40:
			err = h.read(o, buf, func() error { return o.conn.d.ReadAt(ctx, buf, off) })
		case k < 92:
			o.kept = k < 45
			err = h.write(rng, o, buf, off)
		case k < 97:
			o.kind = opFlush
			err = h.do(o, func() error { return o.conn.d.Flush(ctx) })
		default:
			h.renew(slot)
		}
		if err != nil {
			sl.wait()
		}
		h.cut()
	}
}

func (h *linear) read(o *operation, buf []byte, fn func() error) error {
	return h.do(o, func() error {
		err := fn()
		if err == nil {
			var whole bool
			if o.got, whole = readContent(buf); !whole {
				h.t.Errorf("seed %d: %v: torn", h.seed, o)
			}
		}
		return err
	})
}

func (h *linear) write(rng *rand.Rand, o *operation, buf []byte, off uint64) error {
	o.kind, o.tag = opWrite, tag(h.tags.Add(1))
	o.halves = [][2]bool{{true, true}, {true, false}, {false, true}}[rng.IntN(3)]
	p := buf
	switch o.halves {
	case [2]bool{true, false}:
		p = buf[:block.Size/2]
	case [2]bool{false, true}:
		p, off = buf[block.Size/2:], off+block.Size/2
	}
	for i := 0; i < len(p); i += block.Size / 2 {
		o.tag.fill(p[i : i+block.Size/2])
	}
	return h.do(o, func() error {
		if err := o.conn.d.WriteAt(context.Background(), p, off, o.kept); err != nil {
			return err
		}
		return o.conn.d.Settle()
	})
}

// upkeep goes on beside the clients.
func (h *linear) upkeep() {
	rng := rand.New(rand.NewPCG(h.seed, 1000))
	ctx := context.Background()
	for i := range linearOps / 4 {
		switch k := rng.IntN(10); {
		case k < 4:
			sn := &linearSnap{name: fmt.Sprintf("s%d", i), call: h.now()}
			err := h.do(&operation{kind: opFlush, client: -1}, func() error {
				_, err := h.s.Snapshot(ctx, "v", sn.name)
				return err
			})
			if sn.ret = h.now(); err == nil {
				h.snaps = append(h.snaps, sn)
			}
		case k < 6 && len(h.snaps) > 0:
			sn := h.snaps[rng.IntN(len(h.snaps))]
			if sn.end == 0 {
				h.readSnap(h.s, sn, func(o *operation) { h.mu.Lock(); h.ops = append(h.ops, o); h.mu.Unlock() })
				sn.end = h.now()
				if err := h.s.DeleteSnapshot(ctx, "v", sn.name); err != nil {
					h.t.Errorf("seed %d: %v", h.seed, err)
				}
			}
		case k < 8:
			if _, faults, err := gc.New(h.s, gc.Options{CleanBelow: 0.9}).Collect(ctx, false, nil); err != nil || len(faults) > 0 {
				h.t.Errorf("seed %d: gc: %v, %q", h.seed, err, faults)
			}
		default:
			_ = h.do(&operation{kind: opFlush, client: -1}, func() error { return h.s.Flush(ctx) })
		}
	}
}

// readSnap adds what a snapshot holds: a read of each register that took place
// while the snapshot was made.
func (h *linear) readSnap(s *Store, sn *linearSnap, add func(*operation)) {
	d, err := s.Open(context.Background(), "v@"+sn.name, "linear", nil)
	if err != nil {
		h.t.Errorf("seed %d: a snapshot that was made: %v", h.seed, err)
		return
	}
	defer func() { _ = d.Close() }()
	buf := make([]byte, block.Size)
	for i, b := range linearBlocks {
		o := &operation{kind: opRead, register: i, client: -1, call: sn.call, ret: sn.ret}
		if err := d.ReadAt(context.Background(), buf, uint64(b)*block.Size); err != nil {
			h.t.Errorf("seed %d: %s: %v", h.seed, sn.name, err)
		}
		var whole bool
		if o.got, whole = readContent(buf); !whole {
			h.t.Errorf("seed %d: %s block %d: torn", h.seed, sn.name, b)
		}
		add(o)
	}
}

// cut copies what a power cut leaves now, when it is time for that. The run
// goes on beside.
func (h *linear) cut() {
	if h.clock.Load() < h.cutAt.Load() || !h.cutting.TryLock() {
		return
	}
	defer h.cutting.Unlock()
	if h.clock.Load() < h.cutAt.Load() {
		return
	}
	c := &linearCut{kind: cutKinds[len(h.cuts)%len(cutKinds)], before: h.now()}
	rng := rand.New(rand.NewPCG(h.seed, uint64(2000+len(h.cuts))))
	c.fs = powerCut(h.fs, c.kind, rng)
	c.after = h.now()
	h.cuts = append(h.cuts, c)
	h.cutAt.Add(1 + rng.Int64N(linearSlots*linearWorkers*linearOps/2))
}

// run makes the history.
func (h *linear) run() {
	ctx := context.Background()
	o := testOptions(h.t, errorfs.Wrap(h.fs, &yielder{rng: rand.New(rand.NewPCG(h.seed, 3000))}))
	o.CommitInterval = time.Millisecond
	h.s = must[*Store](h.t)(Open(o))
	must[Info](h.t)(h.s.Create(ctx, "v", modelBlocks*block.Size))
	a := must[AttachmentInfo](h.t)(h.s.Attach(ctx, AttachRequest{Target: "v", Worker: "w"}))
	h.export = a.ExportName
	h.cutAt.Store(int64(h.seed*31%100) + 10)
	for i := range h.slots {
		h.renew(i)
	}
	var wg sync.WaitGroup
	for client := range linearSlots * linearWorkers {
		wg.Go(func() { h.work(client) })
	}
	wg.Go(h.upkeep)
	wg.Wait()
	for _, sn := range h.snaps {
		if sn.end == 0 {
			h.readSnap(h.s, sn, func(o *operation) { h.ops = append(h.ops, o) })
		}
	}
	d := h.slots[0].conn.Load().d
	buf := make([]byte, block.Size)
	for i, b := range linearBlocks {
		_ = h.read(&operation{register: i, client: -1}, buf, func() error { return d.ReadAt(ctx, buf, uint64(b)*block.Size) })
	}
	for i := range h.slots {
		for _, c := range h.slots[i].conns {
			mustDo(h.t, c.d.Close())
		}
	}
	mustDo(h.t, h.s.Close())
}

// yielder lets others run at operations of the file system.
type yielder struct {
	mu  sync.Mutex
	rng *rand.Rand
}

func (y *yielder) String() string { return "yielder" }

func (y *yielder) MaybeError(errorfs.Op) error {
	y.mu.Lock()
	yield := y.rng.IntN(100) < linearPercent
	y.mu.Unlock()
	if yield {
		runtime.Gosched()
	}
	return nil
}

// checkCut opens what a crash left and wants it to be explained.
func (h *linear) checkCut(c *linearCut) {
	ctx := context.Background()
	what := fmt.Sprintf("crash between %d and %d, %v kept", c.before, c.after, c.kind)
	s, err := Open(testOptions(h.t, c.fs))
	if err != nil {
		h.fatalf("%s: %v", what, err)
	}
	defer func() { mustDo(h.t, s.Close()) }()
	if damages, err := s.Check(ctx, true, nil); err != nil || len(damages) > 0 {
		h.fatalf("%s: check: %v, %v", what, damages, err)
	}
	d, err := s.Open(ctx, "v", "linear", nil)
	if err != nil {
		h.fatalf("%s: %v", what, err)
	}
	defer func() { mustDo(h.t, d.Close()) }()
	var extra []*operation
	buf := make([]byte, block.Size)
	for i, b := range linearBlocks {
		mustDo(h.t, d.ReadAt(ctx, buf, uint64(b)*block.Size))
		o := &operation{kind: opCrash, register: i, client: -1, call: math.MaxInt64, ret: math.MaxInt64}
		var whole bool
		if o.got, whole = readContent(buf); !whole {
			h.fatalf("%s: block %d is torn", what, b)
		}
		extra = append(extra, o)
	}
	for _, sn := range h.snaps {
		if sn.ret < c.before && (sn.end == 0 || sn.end > c.after) {
			h.readSnap(s, sn, func(o *operation) { extra = append(extra, o) })
		}
	}
	h.check(what, c, extra)
}

func runLinear(t *testing.T, seed uint64) (ops, cuts int) {
	h := &linear{t: t, seed: seed, fs: vfs.NewCrashableMem()}
	h.run()
	if t.Failed() {
		t.FailNow()
	}
	h.check("without a crash", &linearCut{before: math.MaxInt64, after: math.MaxInt64}, nil)
	for _, c := range h.cuts {
		h.checkCut(c)
	}
	return len(h.ops), len(h.cuts)
}

// TestConcurrentHistories runs clients of three connections of a volume beside
// one another, with snapshots, flushes, commits, collections and connections
// that are replaced. What was read must follow from one order of the operations
// (V3, V4, V5), also what a crash at any moment leaves: of that order at least
// everything before the last flush that had returned. The seed gives what each
// client does, the scheduler in which order.
func TestConcurrentHistories(t *testing.T) {
	first, n, again := uint64(1), *linearRuns, 1
	if *linearSeed != 0 {
		first, n, again = *linearSeed, 1, 100
	}
	ops, cuts := 0, 0
	for i := range n {
		for range again {
			o, c := runLinear(t, first+uint64(i))
			ops, cuts = ops+o, cuts+c
		}
	}
	t.Logf("%d operations and %d crashes explained; replay with -linear.seed", ops, cuts)
}
