package volume

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
)

func attach(t *testing.T, s *Store, target string, readOnly bool) AttachmentInfo {
	t.Helper()
	return must[AttachmentInfo](t)(s.Attach(context.Background(), AttachRequest{Target: target, Worker: "w", ReadOnly: readOnly}))
}

// reattach ends an attachment and makes it anew.
func reattach(t *testing.T, s *Store, a AttachmentInfo) AttachmentInfo {
	t.Helper()
	mustDo(t, s.Detach(context.Background(), a.ID))
	return attach(t, s, a.Target, a.ReadOnly)
}

func baseText(a AttachmentInfo) string {
	if a.Base == nil {
		return "none"
	}
	return fmt.Sprintf("%s clean:%v", a.Base.Target, a.Base.Clean)
}

func wantBase(t *testing.T, what string, a AttachmentInfo, want string) {
	t.Helper()
	if got := baseText(a); got != want {
		t.Errorf("%s: base %s, want %s", what, got, want)
	}
}

// TestBase: which snapshot an attachment starts from, and whether its volume
// has written since.
func TestBase(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := mustOpen(t, testOptions(t, fs))
	must[Info](t)(s.Create(ctx, "v", mib))
	first := attach(t, s, "v", false)
	wantBase(t, "a new volume", first, "none")
	v := openDevice(t, s, first.ExportName)
	mustDo(t, v.WriteAt(ctx, []byte{1}, 0, false))
	mustDo(t, v.Close())
	must[SnapshotInfo](t)(s.Snapshot(ctx, "v", "a"))
	for _, name := range []string{"b", "c", "d"} {
		must[Info](t)(s.Clone(ctx, "v", "a", name))
	}
	b, c, d := attach(t, s, "b", false), attach(t, s, "c", false), attach(t, s, "d", false)
	whole := attach(t, s, "v@a", true)
	for what, a := range map[string]AttachmentInfo{"a clone": b, "another": c, "the snapshot": whole} {
		wantBase(t, what, a, "v@a clean:true")
		if a.Base.ID != b.Base.ID || a.Base.SizeBytes != mib {
			t.Errorf("%s: base %+v, want id %s", what, a.Base, b.Base.ID)
		}
	}
	wantBase(t, "a volume that somebody else may write", attach(t, s, "b", true), "none")

	dev := openDevice(t, s, b.ExportName)
	mustDo(t, dev.WriteAt(ctx, []byte{1}, 5*block.Size, false))
	mustDo(t, dev.Close())
	trimmed := openDevice(t, s, c.ExportName)
	mustDo(t, trimmed.Trim(ctx, 0, block.Size, false))
	mustDo(t, trimmed.Close())
	check := func(when string) {
		t.Helper()
		b, c, d = reattach(t, s, b), reattach(t, s, c), reattach(t, s, d)
		wantBase(t, when+": written", b, "v@a clean:false")
		wantBase(t, when+": only trimmed", c, "v@a clean:false")
		wantBase(t, when+": untouched", d, "v@a clean:true")
		if b.Base.ID != whole.Base.ID {
			t.Errorf("%s: the base is %s, and was %s", when, b.Base.ID, whole.Base.ID)
		}
	}
	check("before the commit")
	mustDo(t, s.Flush(ctx))
	check("after it")
	mustDo(t, s.Close())
	s = mustOpen(t, testOptions(t, fs))
	check("after a restart")

	if runs := must[[]Changed](t)(s.Dirty(ctx, b.ID, b.Base.ID, 0)); fmt.Sprint(runs) != "[{20480 false} {4096 true} {1024000 false}]" {
		t.Errorf("dirty: %v", runs)
	}
	must[SnapshotInfo](t)(s.Snapshot(ctx, "b", "own"))
	wantKind(t, func() error { _, err := s.Dirty(ctx, b.ID, b.Base.ID, 0); return err }(), block.NotFound)
	for _, off := range []uint64{1, mib, mib + block.Size} {
		_, err := s.Dirty(ctx, d.ID, d.Base.ID, off)
		wantKind(t, err, block.Invalid)
	}
	wantBase(t, "after a snapshot of its own", reattach(t, s, b), "b@own clean:true")
}

// TestBaseIsNotAName: a snapshot that has another's name has not its identity,
// and a volume whose base has lost its name, or whose base's volume has, has none.
func TestBaseIsNotAName(t *testing.T) {
	ctx := context.Background()
	o := testOptions(t, vfs.NewMem())
	when := time.Unix(1, 0)
	o.Now = func() time.Time { return when } // clocks may stand still
	s := mustOpen(t, o)
	must[Info](t)(s.Create(ctx, "v", mib))
	must[SnapshotInfo](t)(s.Snapshot(ctx, "v", "a"))
	must[Info](t)(s.Clone(ctx, "v", "a", "old"))
	must[Info](t)(s.Clone(ctx, "v", "a", "old2"))
	old := attach(t, s, "old", false)
	mustDo(t, s.DeleteSnapshot(ctx, "v", "a"))
	must[SnapshotInfo](t)(s.Snapshot(ctx, "v", "a"))
	must[Info](t)(s.Clone(ctx, "v", "a", "new"))
	if now := attach(t, s, "new", false); now.Base == nil || now.Base.ID == old.Base.ID {
		t.Errorf("a new snapshot of the same name has the base %+v, the old one %+v", now.Base, old.Base)
	}
	wantBase(t, "the base was deleted, its name given to another", reattach(t, s, old), "none")

	must[Info](t)(s.Clone(ctx, "v", "a", "left"))
	must[Info](t)(s.Rename(ctx, "v", "w"))
	must[Info](t)(s.Create(ctx, "v", mib))
	must[SnapshotInfo](t)(s.Snapshot(ctx, "v", "a"))
	wantBase(t, "the base's volume was renamed, its name given to another", attach(t, s, "left", false), "none")
}

// TestWhatIsNotDirtyIsTheBase: what Dirty does not name reads like the snapshot,
// after random writes, snapshots, deletions and restarts.
func TestWhatIsNotDirtyIsTheBase(t *testing.T) {
	ctx := context.Background()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	fs := vfs.NewMem()
	s := mustOpen(t, testOptions(t, fs))
	must[Info](t)(s.Create(ctx, "v", 2*mib))
	scribble := func(export string) {
		d := openDevice(t, s, export)
		for range rng.IntN(20) {
			off, n := rng.Uint64N(2*mib-50000), 1+rng.Uint64N(50000)
			if rng.IntN(3) == 0 {
				mustDo(t, d.Trim(ctx, off, n, false))
			} else {
				mustDo(t, d.WriteAt(ctx, pattern(rng.Uint64(), int(n)), off, false))
			}
		}
		mustDo(t, d.Close())
	}
	a := AttachmentInfo{}
	for round := range 30 {
		if round%4 == 0 {
			from, name := "v", fmt.Sprintf("s%d", round)
			scribble(from)
			must[SnapshotInfo](t)(s.Snapshot(ctx, from, name))
			must[Info](t)(s.Clone(ctx, from, name, fmt.Sprintf("c%d", round)))
			a = attach(t, s, fmt.Sprintf("c%d", round), false)
		}
		scribble(a.ExportName)
		switch rng.IntN(4) {
		case 0:
			must[SnapshotInfo](t)(s.Snapshot(ctx, a.Target, fmt.Sprintf("x%d", round)))
		case 1:
			mustDo(t, s.Flush(ctx))
		case 2:
			mustDo(t, s.Close())
			s = mustOpen(t, testOptions(t, fs))
		}
		a = reattach(t, s, a)
		base, now := openDevice(t, s, a.Base.Target), openDevice(t, s, a.ExportName)
		want, got := readAll(t, base), readAll(t, now)
		for at := uint64(0); at < 2*mib; {
			for _, c := range must[[]Changed](t)(s.Dirty(ctx, a.ID, a.Base.ID, at)) {
				if (!c.Differs || a.Base.Clean) && !bytes.Equal(want[at:at+c.LengthBytes], got[at:at+c.LengthBytes]) {
					t.Fatalf("round %d: %d bytes at %d differ from %s, clean %v", round, c.LengthBytes, at, a.Base.Target, a.Base.Clean)
				}
				at += c.LengthBytes
			}
		}
		mustDo(t, base.Close())
		mustDo(t, now.Close())
	}
}

// TestTraces: a boot trace is kept for the base of an attachment only, outlives a
// restart, and goes with its snapshot.
func TestTraces(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := mustOpen(t, testOptions(t, fs))
	must[Info](t)(s.Create(ctx, "v", mib))
	ids := map[string]string{}
	for _, name := range []string{"a", "b", "c"} {
		must[SnapshotInfo](t)(s.Snapshot(ctx, "v", name))
		must[Info](t)(s.Clone(ctx, "v", name, name))
		a := attach(t, s, name, false)
		ids[name] = a.Base.ID
		for _, kind := range traceKinds {
			if s.Trace(a.Base.ID, kind) != nil {
				t.Errorf("%s has a trace", name)
			}
			mustDo(t, s.PutTrace(ctx, a.ID, a.Base.ID, kind, []byte("old")))
			mustDo(t, s.PutTrace(ctx, a.ID, a.Base.ID, kind, []byte(name+string(kind))))
			wantKind(t, s.PutTrace(ctx, a.ID, "other", kind, []byte(name)), block.NotFound)
			wantKind(t, s.PutTrace(ctx, "none", a.Base.ID, kind, []byte(name)), block.NotFound)
			wantKind(t, s.PutTrace(ctx, a.ID, a.Base.ID, kind, make([]byte, maxTraceBytes+1)), block.Invalid)
		}
		mustDo(t, s.Detach(ctx, a.ID))
	}
	mustDo(t, s.Close())
	s = mustOpen(t, testOptions(t, fs))
	mustDo(t, s.DeleteSnapshot(ctx, "v", "a"))
	for _, kind := range traceKinds {
		if a, b := s.Trace(ids["a"], kind), s.Trace(ids["b"], kind); a != nil || string(b) != "b"+string(kind) {
			t.Errorf("traces are %q and %q", a, b)
		}
	}
	must[[]string](t)(s.Delete(ctx, "v", true))
	if names := must[[]string](t)(fs.List(fs.PathJoin("store", tracesName))); len(names) != 0 {
		t.Errorf("left are %v", names)
	}
}

// TestReadBase reads the snapshot, not what a clone has made of it.
func TestReadBase(t *testing.T) {
	ctx := context.Background()
	s := mustOpen(t, testOptions(t, vfs.NewMem()))
	must[Info](t)(s.Create(ctx, "v", mib))
	want := pattern(1, mib)
	mustDo(t, openDevice(t, s, "v").WriteAt(ctx, want, 0, false))
	must[SnapshotInfo](t)(s.Snapshot(ctx, "v", "a"))
	must[Info](t)(s.Clone(ctx, "v", "a", "c"))
	a := attach(t, s, "c", false)
	mustDo(t, openDevice(t, s, a.ExportName).WriteAt(ctx, pattern(2, mib/2), 0, false))
	p := make([]byte, 3*block.Size)
	mustDo(t, s.ReadBase(ctx, a.ID, a.Base.ID, []uint64{5 * block.Size, block.Size, 0, 2 * block.Size}, p))
	same(t, "the base", p, append(bytes.Clone(want[5*block.Size:6*block.Size]), want[:2*block.Size]...))
	for _, runs := range [][]uint64{{1, block.Size}, {0, 1}, {0, 0}, {mib, block.Size}, {mib - block.Size, 2 * block.Size}, {^uint64(0) &^ 4095, block.Size}, {0, 4 * block.Size}} {
		wantKind(t, s.ReadBase(ctx, a.ID, a.Base.ID, runs, p), block.Invalid)
	}
	wantKind(t, s.ReadBase(ctx, a.ID, "other", []uint64{0, block.Size}, p), block.NotFound)
	wantKind(t, s.ReadBase(ctx, "none", a.Base.ID, []uint64{0, block.Size}, p), block.NotFound)
}
