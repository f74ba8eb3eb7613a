package volume

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/slackerd/slacker/block"
)

var crashFull = flag.Bool("crash.full", false, "cut the power at every operation, not at one in several")

const crashBlocks = 300

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

// TestCrashScriptCovers: the script that the crash matrix cuts does what a
// collection does: merges layers, empties segments, uses their files again.
func TestCrashScriptCovers(t *testing.T) {
	c := &script{open: openFor(t), e: expectation{map[string][]cell{}, map[string]bool{}}}
	var kept, used atomic.Int64
	count := &opCounter{before: func(_ int, op errorfs.Op) error {
		switch spare := strings.HasSuffix(op.Path, ".spare"); {
		case op.Kind == errorfs.OpRename && spare:
			used.Add(1)
		case op.Kind == errorfs.OpRename && strings.HasSuffix(op.Path, ".seg"):
			kept.Add(1)
		}
		return nil
	}}
	c.fs = errorfs.Wrap(vfs.NewCrashableMem(), count)
	mustDo(t, c.run())
	mustDo(t, c.s.Close())
	t.Logf("%d layers merged, %d segments emptied, %d files kept, %d used again", c.merged, c.emptied, kept.Load(), used.Load())
	if c.merged == 0 || c.emptied == 0 || kept.Load() == 0 || used.Load() == 0 {
		t.Error("want some of each")
	}
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
