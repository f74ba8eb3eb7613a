package volume

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/slackerd/slacker/block"
)

// TestCrashMatrixOfFlatPages cuts the power while pages that many layers hold are
// stored flat, their blocks move, and their layers go: what is read is what was
// written, and each flat page that is there says so too (M9, which the check
// after each cut looks at).
func TestCrashMatrixOfFlatPages(t *testing.T) {
	every := sampled(3, 20)
	if *crashFull {
		every = 1
	}
	crashMatrix(t, 0, every, func(c *script) error {
		if err := c.start(); err != nil {
			return err
		}
		for i, step := range c.flatSteps() {
			if err := step(); err != nil {
				return fmt.Errorf("step %d: %w", i, err)
			}
		}
		return nil
	})
}

func (c *script) flatSteps() (steps []func() error) {
	do := func(fn func() error) { steps = append(steps, fn) }
	do(func() error { return c.create("a") })
	for i := range 7 {
		do(func() error { return c.write("a", 3*i, 30, false) })
		do(func() error { return c.snapshot("a", fmt.Sprint("s", i)) })
	}
	do(c.reopen)                                             // nothing is in memory
	do(func() error { return c.clone("a", "s6", "c") })      // reads come through it
	do(func() error { return c.readFlat("c", 1) })           // stored flat
	do(func() error { return c.write("a", 0, 120, true) })   // other data takes the segments over
	do(func() error { return c.deleteSnapshot("a", "s1") })  // of the seven
	do(func() error { return c.deleteSnapshot("a", "s3") })  // some go
	do(c.collect)                                            // layers merge, blocks move
	do(func() error { return c.write("c", 250, 50, false) }) // over the second page
	do(c.reopen)                                             // the flat pages are all that is left of it
	do(func() error { return c.readFlat("c", 1) })           // by what is still good of them
	do(func() error { return c.deleteSnapshot("a", "s6") })  // c alone has its layer
	do(c.collect)                                            // which goes
	do(func() error { return c.readFlat("c", 0) })           // and its flat pages
	do(func() error { return c.write("c", 0, 100, true) })   //
	do(c.collect)
	return steps
}

// readFlat reads a volume, and waits until there are so many flat pages.
func (c *script) readFlat(name string, want int) error {
	ctx := context.Background()
	d, err := c.s.Open(ctx, name, "test", nil)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	if err := d.ReadAt(ctx, make([]byte, crashBlocks*block.Size), 0); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		a, err := c.s.tree.Audit(ctx)
		if err != nil {
			return err
		}
		var wrong error
		n, err := a.CheckFlats(ctx, func(l block.LayerID, page uint32, what string) {
			wrong = fmt.Errorf("flat page %d of layer %d: %s", page, l, what)
		})
		if err = errors.Join(wrong, err, a.Close()); err != nil || n >= want {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d flat pages, want %d", n, want)
		}
	}
}
