package volume

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/gc"
)

var crashFull = flag.Bool("crash.full", false, "cut the power at every operation, not at one in several")

const crashBlocks = 300

// expectation is what a crash may leave: of each volume and snapshot, which tags
// each block may hold; and which of them must, may or must not be there.
type expectation struct {
	cells map[string][]cell
	must  map[string]bool // false: may be there
}

// script is a fixed sequence of operations on a store. It keeps what a crash at
// this moment may leave.
type script struct {
	s    *Store
	fs   vfs.FS
	open func(vfs.FS) (*Store, error)

	mu   sync.Mutex
	e    expectation
	next tag
}

// expected copies what a crash now may leave.
func (c *script) expected() expectation {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := expectation{map[string][]cell{}, map[string]bool{}}
	for name, cells := range c.e.cells {
		for _, x := range cells {
			e.cells[name] = append(e.cells[name], cell{x.now, append([]tag(nil), x.older...)})
		}
		e.must[name] = c.e.must[name]
	}
	return e
}

func (c *script) change(fn func(*expectation)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn(&c.e)
}

// write notes the change before it is made: from then on a crash may leave it.
func (c *script) write(name string, first, n int, fua bool) error {
	d, err := c.s.Open(context.Background(), name, "test", nil)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	buf := make([]byte, n*block.Size)
	c.change(func(e *expectation) {
		for i := range n {
			c.next++
			c.next.fill(buf[i*block.Size : (i+1)*block.Size])
			x := &e.cells[name][first+i]
			x.older, x.now = append(x.older, x.now), c.next
		}
	})
	if err := d.WriteAt(context.Background(), buf, uint64(first)*block.Size, fua); err != nil {
		return err
	}
	if fua {
		c.settle(name, first, n)
	}
	return nil
}

func (c *script) settle(name string, first, n int) {
	c.change(func(e *expectation) {
		for i := first; i < first+n; i++ {
			e.cells[name][i].older = nil
		}
	})
}

func (c *script) flush(name string) error {
	d, err := c.s.Open(context.Background(), name, "test", nil)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	if err := d.Flush(context.Background()); err != nil {
		return err
	}
	c.settle(name, 0, crashBlocks)
	return nil
}

// appear makes a volume or snapshot: it may be there once do has begun, and
// must once it has returned.
func (c *script) appear(name, from string, do func() error) error {
	c.change(func(e *expectation) {
		e.cells[name] = make([]cell, crashBlocks)
		for i := range e.cells[from] {
			e.cells[name][i].now = e.cells[from][i].now
		}
		e.must[name] = false
	})
	if err := do(); err != nil {
		return err
	}
	c.change(func(e *expectation) {
		e.must[name] = true
		if from != "" { // a snapshot makes its volume durable
			for i := range e.cells[from] {
				e.cells[from][i].older = nil
			}
		}
	})
	return nil
}

func (c *script) vanish(name string, do func() error) error {
	c.change(func(e *expectation) { e.must[name] = false })
	if err := do(); err != nil {
		return err
	}
	c.change(func(e *expectation) { delete(e.cells, name); delete(e.must, name) })
	return nil
}

// run is the script. It stops at the first error.
func (c *script) run() error {
	if err := c.start(); err != nil {
		return err
	}
	for i, step := range c.steps() {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

func (c *script) start() (err error) {
	c.s, err = c.open(c.fs)
	return err
}

func (c *script) steps() []func() error {
	ctx := context.Background()
	return []func() error{
		func() error { return c.create("a") },
		func() error { return c.write("a", 0, 120, false) },
		func() error { return c.flush("a") },
		func() error { return c.write("a", 10, 5, true) },
		func() error { return c.write("a", 250, 50, false) },
		func() error { return c.snapshot("a", "s") },
		func() error { return c.write("a", 0, 40, false) },
		func() error { return c.clone("a", "s", "c") },
		func() error { return c.write("c", 100, 60, false) },
		func() error { return c.flush("c") },
		func() error { return c.s.Flush(ctx) },
		func() error { return c.rollback("a", "s") },
		func() error { return c.write("a", 5, 20, false) },
		func() error { return c.reopen() },
		func() error { return c.deleteSnapshot("a", "s") },
		func() error { return c.collect() },
		func() error { return c.write("c", 0, 100, true) },
		func() error { return c.deleteVolume("a") },
		func() error { return c.collect() },
		func() error { return c.write("c", 120, 10, false) },
		func() error {
			return c.appear("p", "c", func() error {
				return c.appear("p@t", "c", func() error { _, err := c.s.Publish(ctx, "c", "p@t"); return err })
			})
		},
		func() error { return c.write("c", 0, 10, false) },
		func() error { return c.reopen() },
	}
}

func (c *script) create(name string) error {
	return c.appear(name, "", func() error {
		_, err := c.s.Create(context.Background(), name, crashBlocks*block.Size)
		return err
	})
}

func (c *script) snapshot(name, snap string) error {
	return c.appear(name+"@"+snap, name, func() error {
		_, err := c.s.Snapshot(context.Background(), name, snap)
		return err
	})
}

func (c *script) clone(name, snap, to string) error {
	return c.appear(to, name+"@"+snap, func() error {
		_, err := c.s.Clone(context.Background(), name, snap, to)
		return err
	})
}

func (c *script) deleteSnapshot(name, snap string) error {
	return c.vanish(name+"@"+snap, func() error { return c.s.DeleteSnapshot(context.Background(), name, snap) })
}

func (c *script) deleteVolume(name string) error {
	return c.vanish(name, func() error {
		_, err := c.s.Delete(context.Background(), name, true)
		return err
	})
}

func (c *script) rollback(name, snap string) error {
	c.change(func(e *expectation) {
		for i := range e.cells[name] {
			x := &e.cells[name][i]
			x.older, x.now = append(x.older, x.now), e.cells[name+"@"+snap][i].now
		}
	})
	if _, err := c.s.Rollback(context.Background(), name, snap); err != nil {
		return err
	}
	c.settle(name, 0, crashBlocks)
	return nil
}

func (c *script) reopen() error {
	if err := c.s.Close(); err != nil {
		return err
	}
	c.change(func(e *expectation) {
		for _, cells := range e.cells {
			for i := range cells {
				cells[i].older = nil
			}
		}
	})
	s, err := c.open(c.fs)
	if err == nil {
		c.s = s
	}
	return err
}

func (c *script) collect() error {
	_, faults, err := gc.New(c.s, gc.Options{CleanBelow: 0.95}).Collect(context.Background(), false, nil)
	if err == nil && len(faults) > 0 {
		err = fmt.Errorf("gc passed over %q", faults)
	}
	return err
}

// compare wants in a store what may be there, and no damage.
func (e expectation) compare(s *Store) error {
	ctx := context.Background()
	buf := make([]byte, crashBlocks*block.Size)
	for name, cells := range e.cells {
		d, err := s.Open(ctx, name, "test", nil)
		if block.Is(err, block.NotFound) && !e.must[name] {
			continue
		}
		if err != nil {
			return err
		}
		err = d.ReadAt(ctx, buf, 0)
		_ = d.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for i, c := range cells {
			g, whole := tagOf(buf[i*block.Size : (i+1)*block.Size])
			ok := whole && g == c.now
			for _, o := range c.older {
				ok = ok || whole && g == o
			}
			if !ok {
				return fmt.Errorf("%s block %d holds %d (whole: %v), want %d or one of %v", name, i, g, whole, c.now, c.older)
			}
		}
	}
	infos, err := s.List(ctx, "")
	if err != nil {
		return err
	}
	for _, i := range infos {
		if e.cells[i.Name] == nil {
			return fmt.Errorf("volume %s is there", i.Name)
		}
		if i.Name == "p" && i.Snapshots != 1 {
			return fmt.Errorf("volume p was published without its snapshot")
		}
	}
	damages, err := s.Check(ctx, true, nil)
	if err != nil || len(damages) > 0 {
		return fmt.Errorf("check: %v, %w", damages, err)
	}
	return s.tree.CheckCounts(ctx)
}

// opCounter calls before ahead of every operation that changes the file system.
type opCounter struct {
	n      atomic.Int64
	before func(n int, op errorfs.Op) error
}

func (o *opCounter) String() string { return "counter" }

func (o *opCounter) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
		return nil
	}
	return o.before(int(o.n.Add(1)), op)
}

func openFor(t testing.TB) func(vfs.FS) (*Store, error) {
	return func(fs vfs.FS) (*Store, error) { return Open(testOptions(t, fs)) }
}

// TestCrashMatrix cuts the power before the operations of a script: of what was
// not synced nothing, a part or all is there. What the contract demands is
// there, and nothing else; also after another cut during the recovery (V2). The
// map is whole each time: its counters are right, no two entries name one place
// (M1), and it ends where the log goes on (M2).
func TestCrashMatrix(t *testing.T) {
	every := sampled(3, 20)
	if *crashFull {
		every = 1
	}
	crashMatrix(t, 0, every, (*script).run)
}

// crashMatrix cuts the power before one in every of the operations that run
// does.
func crashMatrix(t *testing.T, seed uint64, every int, run func(*script) error) {
	mem := vfs.NewCrashableMem()
	c := &script{open: openFor(t), e: expectation{map[string][]cell{}, map[string]bool{}}}
	var cuts atomic.Int64
	var busy sync.Mutex // background goroutines do I/O too
	count := &opCounter{}
	count.before = func(n int, op errorfs.Op) error {
		if n%every != 0 {
			return nil
		}
		busy.Lock()
		defer busy.Unlock()
		for _, kind := range cutKinds {
			rng := rand.New(rand.NewPCG(seed<<32|uint64(n), uint64(kind)))
			// What is acknowledged while the file system is copied is not
			// demanded, what is begun meanwhile is allowed.
			before := c.expected()
			cut := powerCut(mem, kind, rng)
			e := before.allow(c.expected())
			if err := recoverTwice(t, cut, e, rng); err != nil {
				t.Errorf("seed %d: cut before operation %d (%v of %s), %v kept: %v", seed, n, op.Kind, op.Path, kind, err)
			}
			cuts.Add(1)
		}
		return nil
	}
	c.fs = errorfs.Wrap(mem, count)
	if err := run(c); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	if err := c.s.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d: %d operations, %d cuts", seed, count.n.Load(), cuts.Load())
}

// allow adds what a later expectation knows to what a crash may leave.
func (e expectation) allow(later expectation) expectation {
	for name, cells := range later.cells {
		mine := e.cells[name]
		if mine == nil {
			e.cells[name], e.must[name] = cells, false
			continue
		}
		for i := range cells {
			mine[i].older = append(append(mine[i].older, cells[i].now), cells[i].older...)
		}
	}
	for name := range e.cells {
		e.must[name] = e.must[name] && later.must[name]
	}
	return e
}

// recoverTwice opens the store twice: the second time as a cut during the first
// opening left it.
func recoverTwice(t testing.TB, mem *vfs.MemFS, e expectation, rng *rand.Rand) error {
	at := 1 + rng.IntN(30)
	var again *vfs.MemFS
	kind := cutKinds[rng.IntN(len(cutKinds))]
	count := &opCounter{}
	count.before = func(n int, _ errorfs.Op) error {
		if n == at {
			again = powerCut(mem, kind, rng)
		}
		return nil
	}
	if err := recoverOnce(t, errorfs.Wrap(mem, count), e); err != nil {
		return err
	}
	if again == nil {
		return nil
	}
	if err := recoverOnce(t, again, e); err != nil {
		return fmt.Errorf("cut again before operation %d of the recovery: %w", at, err)
	}
	return nil
}

func recoverOnce(t testing.TB, fs vfs.FS, e expectation) error {
	s, err := Open(testOptions(t, fs))
	if err != nil {
		return err
	}
	if err := e.compare(s); err != nil {
		_ = s.Close()
		return err
	}
	return s.Close()
}
