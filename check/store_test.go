package check_test

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/check"
	"github.com/slackerd/slacker/gc"
	"github.com/slackerd/slacker/volume"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const volumeBlocks = 600

// content is what the exports of a store hold, as tags of their blocks.
type content map[string][]uint64

// fixture is a small store with a bit of everything in it, closed, and what its
// exports hold.
type fixture struct {
	fs      *vfs.MemFS
	content content
	// older is what they may hold too, and last the one that need not be there:
	// damage to the very end of a log cannot be told from a crash.
	older content
	last  string
	past  []*vfs.MemFS // what was durable at earlier moments
	// before is older for who has the log alone, and ever what was written to each
	// block of any volume.
	before content
	ever   map[int][]uint64
}

func fill(b []byte, tag uint64) {
	r := rand.NewPCG(tag, 1)
	for i := 0; tag != 0 && i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
}

func options(fs vfs.FS) volume.Options {
	return volume.Options{Dir: "store", FS: fs, SegmentBytes: 1 << 20, SpareSegments: 2, MapCacheBytes: 1 << 20, PageCacheBytes: 1 << 20, CommitInterval: time.Hour}
}

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

// builder fills a store and notes what is in it.
type builder struct {
	t    testing.TB
	s    *volume.Store
	c    content
	next uint64
	ever map[int][]uint64
}

func (b *builder) write(name string, first, n int) {
	b.t.Helper()
	ctx := context.Background()
	d := must[*volume.Device](b.t)(b.s.Open(ctx, name, "test", nil))
	buf := make([]byte, n*block.Size)
	for i := range n {
		b.next++
		fill(buf[i*block.Size:(i+1)*block.Size], b.next)
		b.c[name][first+i] = b.next
		b.ever[first+i] = append(b.ever[first+i], b.next)
	}
	mustDo(b.t, d.WriteAt(ctx, buf, uint64(first)*block.Size, false))
	mustDo(b.t, d.Flush(ctx))
	mustDo(b.t, d.Close())
}

func (b *builder) trim(name string, first, n int) {
	b.t.Helper()
	ctx := context.Background()
	d := must[*volume.Device](b.t)(b.s.Open(ctx, name, "test", nil))
	mustDo(b.t, d.Trim(ctx, uint64(first)*block.Size, uint64(n)*block.Size, false))
	clear(b.c[name][first : first+n])
	mustDo(b.t, d.Flush(ctx))
	mustDo(b.t, d.Close())
}

func (b *builder) snapshot(name, snap string) {
	b.t.Helper()
	must[volume.SnapshotInfo](b.t)(b.s.Snapshot(context.Background(), name, snap))
	b.c[name+"@"+snap] = append([]uint64(nil), b.c[name]...)
}

func (b *builder) clone(from, snap, name string) {
	b.t.Helper()
	must[volume.Info](b.t)(b.s.Clone(context.Background(), from, snap, name))
	b.c[name] = append([]uint64(nil), b.c[from+"@"+snap]...)
}

func (b *builder) collect() {
	b.t.Helper()
	_, faults, err := gc.New(b.s, gc.Options{CleanBelow: 0.9}).Collect(context.Background(), false, nil)
	mustDo(b.t, err)
	if len(faults) > 0 {
		b.t.Fatalf("collect: %q", faults)
	}
}

// build makes the fixture. "base" has snapshot s1; "left" and "right" are clones
// of it; "own" shares nothing. A layer between was merged, segments were
// cleaned, and what was written last is in the log only. With cut, the store was
// not closed but lost its power.
func build(t testing.TB, cut bool) *fixture {
	t.Helper()
	return buildFrom(t, cut, 0)
}

// buildFrom is build with other data: blocks have the tags after the given one.
func buildFrom(t testing.TB, cut bool, tag uint64) *fixture {
	t.Helper()
	ctx := context.Background()
	fs := vfs.NewCrashableMem()
	b := &builder{t: t, s: must[*volume.Store](t)(volume.Open(options(fs))), c: content{}, next: tag, ever: map[int][]uint64{}}
	for _, name := range []string{"base", "own"} {
		must[volume.Info](t)(b.s.Create(ctx, name, volumeBlocks*block.Size))
		b.c[name] = make([]uint64, volumeBlocks)
	}
	b.write("base", 0, 300)
	b.write("own", 10, 200)
	b.snapshot("base", "s0")
	b.write("base", 100, 150)
	b.snapshot("base", "s1")
	b.clone("base", "s1", "left")
	b.clone("base", "s1", "right")
	b.write("left", 50, 100)
	b.write("right", 290, 20)
	b.write("base", 0, 60)
	mustDo(t, b.s.DeleteSnapshot(ctx, "base", "s0"))
	delete(b.c, "base@s0")
	past := []*vfs.MemFS{fs.CrashClone(vfs.CrashCloneCfg{})}
	b.collect()
	mustDo(t, b.s.Close())
	b.s = must[*volume.Store](t)(volume.Open(options(fs)))
	b.snapshot("right", "r1")
	older := content{"left": slices.Clone(b.c["left"]), "own": slices.Clone(b.c["own"])}
	b.write("own", 400, 100)
	past = append(past, fs.CrashClone(vfs.CrashCloneCfg{}))
	b.write("left", 0, 30)
	killed := &fixture{fs.CrashClone(vfs.CrashCloneCfg{}), b.c, older, "right@r1", past, older, b.ever}
	mustDo(t, b.s.Close())
	if cut {
		return killed
	}
	return &fixture{fs, b.c, nil, "", past, older, b.ever}
}

// clone copies the store, so that a test may damage it.
func (f *fixture) clone() *vfs.MemFS {
	return f.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
}

// verify reads everything: a block is what it has to be, or cannot be read.
// It returns how many blocks could not be read, by export.
func (f *fixture) verify(t testing.TB, s *volume.Store) map[string][]int {
	t.Helper()
	return f.verifyThat(t, s, f.orOlder(f.older))
}

// orOlder says that a block is right, or what it was in older.
func (f *fixture) orOlder(older content) func(name string, i int, is func(tag uint64) bool) bool {
	return func(name string, i int, is func(tag uint64) bool) bool {
		return is(f.content[name][i]) || older[name] != nil && is(older[name][i])
	}
}

// verifyThat is verify for what right says is right.
func (f *fixture) verifyThat(t testing.TB, s *volume.Store, right func(name string, i int, is func(tag uint64) bool) bool) map[string][]int {
	t.Helper()
	ctx := context.Background()
	lost := map[string][]int{}
	got, want := make([]byte, block.Size), make([]byte, block.Size)
	for name, tags := range f.content {
		d, err := s.Open(ctx, name, "test", nil)
		if err != nil {
			if name != f.last {
				t.Errorf("open %s: %v", name, err)
			}
			continue
		}
		for i := range tags {
			if err := d.ReadAt(ctx, got, uint64(i)*block.Size); err != nil {
				lost[name] = append(lost[name], i)
				continue
			}
			is := func(tag uint64) bool {
				clear(want)
				fill(want, tag)
				return string(got) == string(want)
			}
			if !right(name, i, is) {
				t.Errorf("%s block %d: wrong data", name, i)
			}
		}
		mustDo(t, d.Close())
	}
	return lost
}

func TestCleanStore(t *testing.T) {
	ctx := context.Background()
	f := build(t, false)
	s := must[*volume.Store](t)(volume.Open(options(f.fs)))
	if lost := f.verify(t, s); len(lost) > 0 {
		t.Errorf("cannot be read: %v", lost)
	}
	steps := map[string]bool{}
	damages := must[[]check.Damage](t)(s.Check(ctx, true, func(done, total uint64, unit string) {
		if done > total {
			t.Errorf("progress: %d of %d %s", done, total, unit)
		}
		steps[unit] = true
	}))
	for _, d := range damages {
		t.Error(d)
	}
	if !steps["layers"] || !steps["blocks"] {
		t.Errorf("progress of %v", steps)
	}
	mustDo(t, s.Close())
	damages = must[[]check.Damage](t)(volume.CheckDir(ctx, options(f.fs), true, nil))
	if len(damages) > 0 {
		t.Errorf("offline: %v", damages)
	}
	if _, err := volume.CheckDir(ctx, options(vfs.NewMem()), true, nil); !block.Is(err, block.NotFound) {
		t.Errorf("check of no store: %v", err)
	}
}
