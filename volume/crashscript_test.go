package volume

import (
	"context"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/gc"
)

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

	merged, emptied int // layers with one child, and segments with live blocks, that collections were given
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
		// A small layer merges up into a large one; whole segments die, and their
		// files are used again.
		func() error { return c.snapshot("c", "x") },
		func() error { return c.write("c", 0, 250, false) },
		func() error { return c.deleteSnapshot("c", "x") },
		func() error { return c.collect() },
		func() error { return c.write("c", 0, 250, false) },
		func() error { return c.write("c", 0, 130, true) },
		func() error { return c.collect() },
		func() error { return c.write("c", 100, 200, false) },
		func() error { return c.write("c", 0, 110, true) },
		func() error { return c.collect() },
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
	c.merged += len(c.s.tree.Redundant())
	before := map[block.SegmentID]bool{}
	for _, g := range c.s.log.Segments() {
		before[g.ID] = c.s.tree.Live(g.ID) > 0
	}
	defer func() {
		for _, g := range c.s.log.Segments() {
			delete(before, g.ID)
		}
		for _, lived := range before {
			if lived {
				c.emptied++
			}
		}
	}()
	_, faults, err := gc.New(c.s, gc.Options{CleanBelow: 0.95}).Collect(context.Background(), false, nil)
	if err == nil && len(faults) > 0 {
		err = fmt.Errorf("gc passed over %q", faults)
	}
	return err
}
