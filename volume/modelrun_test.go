package volume

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

var (
	modelSeed  = flag.Uint64("model.seed", 0, "run the model test with this seed only")
	modelRuns  = flag.Int("model.runs", 6, "how many seeds the model test runs")
	modelSteps = flag.Int("model.steps", 250, "how many operations a run of the model test has")
	modelOnly  = flag.String("model.only", "", "of the operations of -model.seed only those with these numbers, as 3,17,40")
)

// modelSetup is how a run of the model differs from another one.
type modelSetup struct {
	name  string
	opts  func(vfs.FS) Options
	kills bool
}

// try turns what a model panics with into an error.
func (m *model) try(fn func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			f, ours := p.(modelFailure)
			if !ours {
				panic(p)
			}
			err = errors.New(string(f))
			for _, d := range m.devs {
				_ = d.Close()
			}
			if m.s != nil {
				_ = m.s.Close() // it may have failed before
			}
		}
	}()
	fn()
	return nil
}

// runSteps does the operations with these numbers. What an operation does
// follows from the seed, its number, and what is there when it is done; so that
// any subset is a run of its own.
func (c modelSetup) runSteps(seed uint64, steps []int) (*model, error) {
	m := &model{fs: vfs.NewCrashableMem(), vols: map[string]*modelVolume{}, opts: c.opts, kills: c.kills}
	return m, m.try(func() {
		m.open()
		for _, i := range steps {
			m.rng = rand.New(rand.NewPCG(seed, uint64(i)))
			m.step()
			if i%20 == 19 {
				m.verify()
			}
		}
		m.verify()
	})
}

// finish deletes everything and wants nothing to be left.
func (m *model) finish() error {
	return m.try(func() {
		m.exactSpace()
		m.shutAll()
		m.must(m.s.Close())
	})
}

func (c modelSetup) run(seed uint64, steps []int) error {
	m, err := c.runSteps(seed, steps)
	if err != nil {
		return err
	}
	return m.finish()
}

func stepsTo(n int) []int {
	steps := make([]int, n)
	for i := range steps {
		steps[i] = i
	}
	return steps
}

// reduceTries bounds the runs that look for a smaller failure.
const reduceTries = 300

// reduce returns a small part of items for which fails still says so: none of
// its pieces can be left out (delta debugging, Zeller and Hildebrandt 2002).
func reduce[T any](items []T, tries int, fails func([]T) bool) []T {
	for pieces := 2; len(items) > 1 && tries > 0; {
		size := (len(items) + pieces - 1) / pieces
		smaller := false
		for at := 0; at < len(items) && tries > 0; at += size {
			rest := append(append([]T(nil), items[:at]...), items[min(at+size, len(items)):]...)
			if tries--; fails(rest) {
				items, pieces, smaller = rest, max(pieces-1, 2), true
				break
			}
		}
		if !smaller {
			if size == 1 {
				break
			}
			pieces = min(2*pieces, len(items))
		}
	}
	return items
}

// fail reports a failed run together with the least that still fails.
func (c modelSetup) fail(t *testing.T, seed uint64, steps []int, err error) {
	t.Helper()
	least, lastErr := steps, err
	least = reduce(least, reduceTries, func(s []int) bool {
		e := c.run(seed, s)
		if e != nil {
			lastErr = e
		}
		return e != nil
	})
	only := make([]string, len(least))
	for i, s := range least {
		only[i] = strconv.Itoa(s)
	}
	t.Fatalf("%v\n\nreduced from %d to %d operations (-model.seed %d -model.only %s):\n%v", err, len(steps), len(least), seed,
		strings.Join(only, ","), lastErr)
}

func plainSetup(t *testing.T) modelSetup {
	return modelSetup{name: "plain", opts: func(fs vfs.FS) Options { return testOptions(t, fs) }}
}

// TestModel does random operations, crashes among them, against a model.
func TestModel(t *testing.T) {
	c := plainSetup(t)
	run := func(t *testing.T, seed uint64, steps []int) {
		t.Logf("replay with -run %s -model.seed %d", t.Name(), seed)
		if err := c.run(seed, steps); err != nil {
			c.fail(t, seed, steps, err)
		}
	}
	if *modelSeed != 0 {
		steps := stepsTo(*modelSteps)
		if *modelOnly != "" {
			steps = nil
			for _, w := range strings.Split(*modelOnly, ",") {
				steps = append(steps, must[int](t)(strconv.Atoi(w)))
			}
		}
		run(t, *modelSeed, steps)
		return
	}
	for seed := range uint64(sampled(*modelRuns, 2)) {
		t.Run(fmt.Sprint(seed+1), func(t *testing.T) { run(t, seed+1, stepsTo(*modelSteps)) })
	}
}

// TestReduce wants the least part of a run that fails, and no more runs than it
// was given.
func TestReduce(t *testing.T) {
	for _, want := range [][]int{{3}, {3, 17}, {0, 99}, {5, 6, 7, 80}} {
		tried := 0
		got := reduce(stepsTo(100), reduceTries, func(s []int) bool {
			tried++
			left := 0
			for _, x := range s {
				for _, w := range want {
					if x == w {
						left++
					}
				}
			}
			return left == len(want)
		})
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("reduced to %v in %d runs, want %v", got, tried, want)
		}
		if tried > reduceTries {
			t.Errorf("%d runs for %v, want at most %d", tried, want, reduceTries)
		}
	}
}

// metamorphicSetups are stores that differ in what nobody may see: sizes of
// segments and caches, spares, and when changes enter the map.
func metamorphicSetups(t *testing.T) []modelSetup {
	setup := func(name string, change func(*Options)) modelSetup {
		return modelSetup{name: name, kills: true, opts: func(fs vfs.FS) Options {
			o := testOptions(t, fs)
			change(&o)
			return o
		}}
	}
	return []modelSetup{
		setup("plain", func(*Options) {}),
		setup("large segments, no spares", func(o *Options) { o.SegmentBytes, o.SpareSegments = 16*mib, 0 }),
		setup("segments of 3 MiB, many spares", func(o *Options) { o.SegmentBytes, o.SpareSegments = 3*mib, 8 }),
		setup("least page cache", func(o *Options) { o.PageCacheBytes = 1 }),
		setup("large caches", func(o *Options) { o.PageCacheBytes, o.MapCacheBytes = 64*mib, 16*mib }),
		setup("least map cache, commits at once", func(o *Options) { o.MapCacheBytes, o.CommitInterval = 1, time.Millisecond }),
	}
}

// digest is all that a user can see of the store: names, sizes, contents, space.
func (m *model) digest() string {
	var b strings.Builder
	ctx := context.Background()
	for _, name := range sorted(m.vols) {
		v := m.vols[name]
		sp := get[Space](m)(m.s.Space(ctx, name))
		fmt.Fprintf(&b, "%s %+v %v\n", name, sp, m.contents(name))
		for _, sn := range sorted(v.snaps) {
			export := name + "@" + sn
			fmt.Fprintf(&b, "%s %+v %v\n", export, get[Space](m)(m.s.Space(ctx, export)), m.contents(export))
		}
	}
	return b.String()
}

// TestMetamorphic does the same operations on stores that differ in what nobody
// may see, and wants the same names, contents and space.
func TestMetamorphic(t *testing.T) {
	for seed := range uint64(max(*modelRuns/6, 1)) {
		var want string
		for i, c := range metamorphicSetups(t) {
			steps := stepsTo(*modelSteps / sampled(2, 8))
			m, err := c.runSteps(seed+1, steps)
			if err != nil {
				c.fail(t, seed+1, steps, fmt.Errorf("%s: %w", c.name, err))
			}
			var got string
			if err := m.try(func() { got = m.digest() }); err != nil {
				t.Fatalf("seed %d: %s: %v", seed+1, c.name, err)
			}
			if i == 0 {
				want = got
			} else if got != want {
				t.Errorf("seed %d: %s differs from %s:\n%s\nwant\n%s", seed+1, c.name, "plain", got, want)
			}
			if err := m.finish(); err != nil {
				t.Fatalf("seed %d: %s: %v", seed+1, c.name, err)
			}
		}
	}
}
