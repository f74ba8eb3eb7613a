package gc_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/check"
	"github.com/slackerd/slacker/cow"
	"github.com/slackerd/slacker/gc"
	"github.com/slackerd/slacker/volume"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const volumeBlocks = 600

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

func open(t testing.TB, fs vfs.FS) *volume.Store {
	t.Helper()
	s := must[*volume.Store](t)(volume.Open(options(fs)))
	t.Cleanup(func() { mustDo(t, s.Close()) })
	return s
}

// put writes n blocks of byte b; get wants them there.
func put(t testing.TB, s *volume.Store, name string, first, n int, b byte) {
	t.Helper()
	d := must[*volume.Device](t)(s.Open(context.Background(), name, "test", nil))
	p := make([]byte, n*block.Size)
	for i := range p {
		p[i] = b
	}
	mustDo(t, d.WriteAt(context.Background(), p, uint64(first)*block.Size, false))
	mustDo(t, d.Close())
}

func get(t testing.TB, s *volume.Store, name string, first, n int, b byte) {
	t.Helper()
	d := must[*volume.Device](t)(s.Open(context.Background(), name, "test", nil))
	p := make([]byte, n*block.Size)
	mustDo(t, d.ReadAt(context.Background(), p, uint64(first)*block.Size))
	for i := range p {
		if p[i] != b {
			t.Fatalf("%s block %d holds %d, want %d", name, first+i/block.Size, p[i], b)
		}
	}
	mustDo(t, d.Close())
}

func create(t testing.TB, s *volume.Store, name string) {
	t.Helper()
	must[volume.Info](t)(s.Create(context.Background(), name, volumeBlocks*block.Size))
}

func collect(t testing.TB, s gc.Store) {
	t.Helper()
	_, faults, err := gc.New(s, gc.Options{CleanBelow: 0.9}).Collect(context.Background(), false, nil)
	mustDo(t, err)
	if len(faults) > 0 {
		t.Fatalf("collect passed over %q", faults)
	}
}

// noDamage flushes and wants a clean check of everything.
func noDamage(t testing.TB, s *volume.Store) {
	t.Helper()
	for _, d := range must[[]check.Damage](t)(s.Check(context.Background(), true, nil)) {
		t.Error(d)
	}
	mustDo(t, s.Flush(context.Background()))
	mustDo(t, s.Tree().CheckCounts(context.Background()))
}

// hooked is a store where something happens after each flush.
type hooked struct {
	*volume.Store
	after func()
}

func (h *hooked) Flush(ctx context.Context) error {
	err := h.Store.Flush(ctx)
	if h.after != nil {
		h.after()
	}
	return err
}

// TestDropKeepsWhatTheMapNames: a segment whose last live blocks were
// overwritten a moment ago, and not durably, must stay (G1): a crash brings
// them back. The overwrite hits every moment between two flushes.
func TestDropKeepsWhatTheMapNames(t *testing.T) {
	ctx := context.Background()
	for at := 1; ; at++ {
		fs := vfs.NewCrashableMem()
		s := open(t, fs)
		create(t, s, "v")
		put(t, s, "v", 0, 20, 1)
		mustDo(t, s.Flush(ctx))
		mustDo(t, s.Log().Rotate(ctx))
		create(t, s, "w")
		put(t, s, "w", 0, 1, 9)
		mustDo(t, s.Flush(ctx))
		n := 0
		h := &hooked{Store: s}
		h.after = func() {
			if n++; n == at {
				put(t, s, "v", 0, 20, 2) // not flushed
			}
		}
		collect(t, h)
		crashed := open(t, fs.CrashClone(vfs.CrashCloneCfg{}))
		d := must[*volume.Device](t)(crashed.Open(ctx, "v", "test", nil))
		p := make([]byte, block.Size)
		for i := range 20 {
			if err := d.ReadAt(ctx, p, uint64(i)*block.Size); err != nil || p[0] != 1 && p[0] != 2 {
				t.Fatalf("overwritten after flush %d: block %d holds %d after a crash: %v", at, i, p[0], err)
			}
		}
		mustDo(t, d.Close())
		noDamage(t, crashed)
		noDamage(t, s)
		if n < at {
			return
		}
	}
}

// TestDropKeepsTheReplayPoint: a segment that the durable map wants to replay
// from must stay, however far the log is by now.
func TestDropKeepsTheReplayPoint(t *testing.T) {
	ctx := context.Background()
	for at := 1; ; at++ {
		fs := vfs.NewCrashableMem()
		s := open(t, fs)
		create(t, s, "v")
		put(t, s, "v", 0, 20, 1)
		mustDo(t, s.Flush(ctx))
		n := 0
		h := &hooked{Store: s}
		h.after = func() {
			if n++; n == at {
				mustDo(t, s.Log().Rotate(ctx))
				put(t, s, "v", 0, 20, 2)
				mustDo(t, s.Log().Sync(ctx)) // what a client's flush does: the log, not the map
			}
		}
		collect(t, h)
		crashed, err := volume.Open(options(fs.CrashClone(vfs.CrashCloneCfg{})))
		if err != nil {
			t.Fatalf("overwritten after flush %d: %v", at, err)
		}
		if n >= at {
			get(t, crashed, "v", 0, 20, 2)
		}
		noDamage(t, crashed)
		mustDo(t, crashed.Close())
		if n < at {
			return
		}
	}
}

// TestSpaceIsExact deletes the members of a small clone tree in every order:
// what is left reads as before, and what is in use is what they hold.
func TestSpaceIsExact(t *testing.T) {
	ctx := context.Background()
	// base: 0-99 ones; s: that; base then 0-49 twos; left, right: clones of s.
	held := map[string][]int{"base": {0, 49, 2, 50, 99, 1}, "base@s": {0, 99, 1}, "left": {0, 9, 3, 10, 99, 1}, "right": {0, 59, 4, 60, 99, 1}}
	for _, order := range permutations([]string{"base", "base@s", "left", "right"}) {
		if before(order, "base", "base@s") {
			continue // a volume goes with its snapshots
		}
		s := must[*volume.Store](t)(volume.Open(options(vfs.NewMem())))
		create(t, s, "base")
		put(t, s, "base", 0, 100, 1)
		must[volume.SnapshotInfo](t)(s.Snapshot(ctx, "base", "s"))
		put(t, s, "base", 0, 50, 2)
		must[volume.Info](t)(s.Clone(ctx, "base", "s", "left"))
		put(t, s, "left", 0, 10, 3)
		must[volume.Info](t)(s.Clone(ctx, "base", "s", "right"))
		put(t, s, "right", 0, 60, 4)
		for i, name := range order {
			would, _, err := s.WouldFree(ctx, name, false)
			mustDo(t, err)
			was := s.Tree().LiveBlocks()
			if name == "base@s" {
				mustDo(t, s.DeleteSnapshot(ctx, "base", "s"))
			} else {
				must[[]string](t)(s.Delete(ctx, name, false))
			}
			collect(t, s)
			if freed := (was - s.Tree().LiveBlocks()) * block.Size; freed != would {
				t.Errorf("%v: deleting %s freed %d bytes, %d were announced", order, name, freed, would)
			}
			for _, left := range order[i+1:] {
				for r := held[left]; len(r) > 0; r = r[3:] {
					get(t, s, left, r[0], r[1]-r[0]+1, byte(r[2]))
				}
			}
		}
		if n := s.Tree().LiveBlocks(); n != 0 {
			t.Errorf("%v: %d blocks in use in an empty store", order, n)
		}
		noDamage(t, s)
		mustDo(t, s.Close())
	}
}

func before(order []string, a, b string) bool {
	for _, n := range order {
		if n == a || n == b {
			return n == a
		}
	}
	return false
}

func permutations(names []string) (all [][]string) {
	if len(names) == 0 {
		return [][]string{nil}
	}
	for i, n := range names {
		rest := append(append([]string(nil), names[:i]...), names[i+1:]...)
		for _, p := range permutations(rest) {
			all = append(all, append([]string{n}, p...))
		}
	}
	return all
}

// failing is a store where one layer cannot be moved.
type failing struct {
	*volume.Store
	layer block.LayerID
}

func (f *failing) Relocate(l *cow.Layer, first block.Index, count uint32, addr block.Addr) (uint32, error) {
	if l.ID == f.layer {
		return 0, block.Errorf(block.IO, "planted")
	}
	return f.Store.Relocate(l, first, count, addr)
}

// TestFaultIsPassedOver: what fails is reported, the rest is done (G3).
func TestFaultIsPassedOver(t *testing.T) {
	ctx := context.Background()
	s := open(t, vfs.NewMem())
	for i, name := range []string{"bad", "good"} {
		create(t, s, name)
		put(t, s, name, 0, 200, byte(i+1))
		put(t, s, name, 0, 150, byte(i+3)) // most of the first segment dies
		mustDo(t, s.Flush(ctx))
		mustDo(t, s.Log().Rotate(ctx))
	}
	put(t, s, "good", 500, 1, 7)
	bad := must[volume.Info](t)(s.Get(ctx, "bad")).Head
	was := len(s.Log().Segments())
	freed, faults, err := gc.New(&failing{s, bad}, gc.Options{CleanBelow: 0.9}).Collect(ctx, false, nil)
	if err != nil || len(faults) == 0 || freed == 0 || len(s.Log().Segments()) >= was {
		t.Errorf("freed %d bytes, faults %q, %v; %d segments of %d left", freed, faults, err, len(s.Log().Segments()), was)
	}
	get(t, s, "bad", 0, 150, 3)
	get(t, s, "good", 0, 150, 4)
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := gc.New(s, gc.Options{}).Collect(stopped, false, nil); !errors.Is(err, context.Canceled) && !block.Is(err, block.Unavailable) {
		t.Errorf("cancelled: %v", err)
	}
	collect(t, s)
	noDamage(t, s)
}
