package volume

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const mib = 1 << 20

// testOptions are those of a small store that commits only when asked to.
func testOptions(t testing.TB, fs vfs.FS) Options {
	return Options{Dir: "store", FS: fs, SegmentBytes: mib, SpareSegments: 2, MapCacheBytes: 1 << 20, PageCacheBytes: 1 << 20,
		CommitInterval: time.Hour, Logger: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))}
}

// sampled is how much of something to test, and less with -short: continuous
// integration runs everything once without the race detector and a part with it,
// which takes ten times as long here.
func sampled(all, short int) int {
	if testing.Short() {
		return short
	}
	return all
}

func mustOpen(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && s.Fault() == nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
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

func wantKind(t testing.TB, err error, k block.Kind) {
	t.Helper()
	if !block.Is(err, k) {
		t.Fatalf("got error %v, want one of kind %v", err, k)
	}
}

func openDevice(t testing.TB, s *Store, export string) *Device {
	t.Helper()
	d := must[*Device](t)(s.Open(context.Background(), export, "test", nil))
	t.Cleanup(func() { mustDo(t, d.Close()) })
	return d
}

func pattern(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

func readAll(t testing.TB, d *Device) []byte {
	t.Helper()
	b := make([]byte, d.Info().SizeBytes)
	mustDo(t, d.ReadAt(context.Background(), b, 0))
	return b
}

func same(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			t.Fatalf("%s: differs at byte %d of %d (block %d)", what, i, len(want), i/block.Size)
		}
	}
	t.Fatalf("%s: got %d bytes, want %d", what, len(got), len(want))
}

func TestWriteReadReopen(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := mustOpen(t, testOptions(t, fs))
	must[Info](t)(s.Create(ctx, "a/b", 8*mib))
	d := openDevice(t, s, "a/b")
	want := make([]byte, 8*mib)
	write := func(off int, p []byte) {
		t.Helper()
		mustDo(t, d.WriteAt(ctx, p, uint64(off), false))
		copy(want[off:], p)
	}
	write(0, pattern(1, 3*mib))
	write(mib-100, pattern(2, 5000)) // unaligned at both ends
	write(5*mib+17, pattern(3, 1))
	write(6*mib, make([]byte, 8192))
	mustDo(t, d.Trim(ctx, 2*mib-10, mib/2, false))
	clear(want[2*mib-10 : 2*mib-10+mib/2])
	same(t, "before flush", readAll(t, d), want)
	mustDo(t, d.Flush(ctx))
	same(t, "after flush", readAll(t, d), want)
	mustDo(t, d.Close())
	mustDo(t, s.Close())

	s = mustOpen(t, testOptions(t, fs))
	same(t, "after reopen", readAll(t, openDevice(t, s, "a/b")), want)
}

func TestSnapshotCloneRollback(t *testing.T) {
	ctx := context.Background()
	s := mustOpen(t, testOptions(t, vfs.NewMem()))
	must[Info](t)(s.Create(ctx, "v", 2*mib))
	d := openDevice(t, s, "v")
	one := pattern(1, 2*mib)
	mustDo(t, d.WriteAt(ctx, one, 0, false))
	must[SnapshotInfo](t)(s.Snapshot(ctx, "v", "one"))
	two := bytes.Clone(one)
	copy(two[mib:], pattern(2, 8192))
	mustDo(t, d.WriteAt(ctx, two[mib:mib+8192], mib, false))
	same(t, "head after snapshot", readAll(t, d), two)
	same(t, "snapshot", readAll(t, openDevice(t, s, "v@one")), one)

	must[Info](t)(s.Clone(ctx, "v", "one", "c"))
	c := openDevice(t, s, "c")
	same(t, "clone", readAll(t, c), one)
	mustDo(t, c.Trim(ctx, 0, mib, false))
	three := bytes.Clone(one)
	clear(three[:mib])
	same(t, "trimmed clone", readAll(t, c), three)
	same(t, "snapshot beside its clone", readAll(t, openDevice(t, s, "v@one")), one)

	_, err := s.Rollback(ctx, "v", "one")
	wantKind(t, err, block.Busy)
	mustDo(t, d.Close())
	must[Info](t)(s.Rollback(ctx, "v", "one"))
	same(t, "rolled back", readAll(t, openDevice(t, s, "v")), one)
}

// TestPublish: the new volume's snapshot holds what was written before it, and
// the published volume goes on by itself, open as it is.
func TestPublish(t *testing.T) {
	ctx := context.Background()
	s := mustOpen(t, testOptions(t, vfs.NewMem()))
	must[Info](t)(s.Create(ctx, "v", 2*mib))
	d := openDevice(t, s, "v")
	one := pattern(1, 2*mib)
	mustDo(t, d.WriteAt(ctx, one, 0, false))
	if sn := must[SnapshotInfo](t)(s.Publish(ctx, "v", "p@one")); sn.LayerBytes != 2*mib || sn.Volume != "p" {
		t.Fatalf("published %+v, want the layer that v wrote", sn)
	}
	mustDo(t, d.WriteAt(ctx, pattern(2, 8192), 0, false))
	if sn := must[SnapshotInfo](t)(s.Publish(ctx, "v", "q@two")); sn.LayerBytes != 8192 {
		t.Fatalf("published %+v, want the layer of what v wrote since", sn)
	}
	same(t, "first", readAll(t, openDevice(t, s, "p@one")), one)
	same(t, "head of the first", readAll(t, openDevice(t, s, "p")), one)
	two := append(pattern(2, 8192), one[8192:]...)
	same(t, "second", readAll(t, openDevice(t, s, "q@two")), two)
	same(t, "the volume", readAll(t, d), two)
	if v := must[Info](t)(s.Get(ctx, "v")); v.Snapshots != 0 || v.HeadBytes != 0 || v.Origin != "q@two" {
		t.Fatalf("the volume is %+v, want one without snapshots on q@two", v)
	}
}

func TestErrors(t *testing.T) {
	ctx := context.Background()
	s := mustOpen(t, testOptions(t, vfs.NewMem()))
	must[Info](t)(s.Create(ctx, "v", mib))
	must[SnapshotInfo](t)(s.Snapshot(ctx, "v", "s"))
	for _, c := range []struct {
		name string
		kind block.Kind
		err  func() error
	}{
		{"create twice", block.Exists, func() error { _, err := s.Create(ctx, "v", mib); return err }},
		{"bad size", block.Invalid, func() error { _, err := s.Create(ctx, "w", 4095); return err }},
		{"bad name", block.Invalid, func() error { _, err := s.Create(ctx, "../w", mib); return err }},
		{"shrink", block.Invalid, func() error { _, err := s.Resize(ctx, "v", mib/2); return err }},
		{"rename onto itself is fine, onto another is not", block.Exists, func() error {
			must[Info](t)(s.Create(ctx, "w", mib))
			_, err := s.Rename(ctx, "v", "w")
			return err
		}},
		{"snapshot twice", block.Exists, func() error { _, err := s.Snapshot(ctx, "v", "s"); return err }},
		{"publish as what is there", block.Exists, func() error { _, err := s.Publish(ctx, "v", "v@t"); return err }},
		{"publish without a snapshot", block.Invalid, func() error { _, err := s.Publish(ctx, "v", "w"); return err }},
		{"publish nothing", block.NotFound, func() error { _, err := s.Publish(ctx, "x", "w@t"); return err }},
		{"snapshot of nothing", block.NotFound, func() error { _, err := s.Snapshot(ctx, "x", "s"); return err }},
		{"clone of nothing", block.NotFound, func() error { _, err := s.Clone(ctx, "v", "t", "y"); return err }},
		{"delete with snapshots", block.Busy, func() error { _, err := s.Delete(ctx, "v", false); return err }},
		{"attach a snapshot for writing", block.ReadOnly, func() error {
			_, err := s.Attach(ctx, AttachRequest{Target: "v@s", Worker: "w"})
			return err
		}},
		{"open nothing", block.NotFound, func() error { _, err := s.Open(ctx, "nope", "", nil); return err }},
		{"open a bad export", block.Invalid, func() error { _, err := s.Open(ctx, "v:1.2", "", nil); return err }},
		{"second process", block.Busy, func() error { _, err := Open(s.o); return err }},
		{"write to a snapshot", block.ReadOnly, func() error { return openDevice(t, s, "v@s").WriteAt(ctx, []byte{1}, 0, false) }},
	} {
		if err := c.err(); !block.Is(err, c.kind) {
			t.Errorf("%s: got %v, want kind %v", c.name, err, c.kind)
		}
	}
}

func TestAttachments(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := mustOpen(t, testOptions(t, fs))
	must[Info](t)(s.Create(ctx, "v", mib))
	a := must[AttachmentInfo](t)(s.Attach(ctx, AttachRequest{Target: "v", Worker: "w1"}))
	_, err := s.Attach(ctx, AttachRequest{Target: "v", Worker: "w2"})
	wantKind(t, err, block.Busy)
	if d := openDevice(t, s, "v"); !d.Info().ReadOnly {
		t.Error("a plain connection to an attached volume may write")
	}

	// A newer connection of a slot fences the older one, also after it has
	// been answered by the server.
	var gone error
	old := must[*Device](t)(s.Open(ctx, a.ExportName+".0.1", "t", func(err error) { gone = err }))
	mustDo(t, old.WriteAt(ctx, pattern(1, 4096), 0, false))
	other := openDevice(t, s, a.ExportName+".1.1")
	fresh := openDevice(t, s, a.ExportName+".0.2")
	if gone == nil {
		t.Error("the replaced connection was not disconnected")
	}
	want := pattern(2, 4096)
	mustDo(t, fresh.WriteAt(ctx, want, 0, false))
	wantKind(t, old.WriteAt(ctx, pattern(1, 4096), 0, false), block.Fenced)
	wantKind(t, old.Flush(ctx), block.Fenced)
	same(t, "after the fenced write", readAll(t, other)[:4096], want)
	_, err = s.Open(ctx, a.ExportName+".0.1", "t", nil)
	wantKind(t, err, block.Fenced)
	mustDo(t, old.Close())

	// Without a slot each connection replaces the one before.
	ro := must[AttachmentInfo](t)(s.Attach(ctx, AttachRequest{Target: "v", Worker: "w3", ReadOnly: true}))
	first := openDevice(t, s, ro.ExportName)
	second := openDevice(t, s, ro.ExportName)
	wantKind(t, first.ReadAt(ctx, make([]byte, 1), 0), block.Fenced)
	mustDo(t, second.ReadAt(ctx, make([]byte, 1), 0))
	mustDo(t, first.Close())
	mustDo(t, second.Close())
	mustDo(t, s.Detach(ctx, ro.ID))

	// Asking what an export is changes nothing.
	info := must[*Device](t)(s.OpenInfo(ctx, a.ExportName+".0.9", "t"))
	wantKind(t, info.WriteAt(ctx, want, 0, false), block.ReadOnly)
	mustDo(t, info.Close())
	mustDo(t, fresh.WriteAt(ctx, want, 0, false))

	// A takeover fences all of them; the attachment outlives a restart.
	b := must[AttachmentInfo](t)(s.Attach(ctx, AttachRequest{Target: "v", Worker: "w2", Takeover: true}))
	if b.Generation <= a.Generation {
		t.Errorf("generation %d after %d", b.Generation, a.Generation)
	}
	wantKind(t, fresh.WriteAt(ctx, want, 0, false), block.Fenced)
	wantKind(t, other.WriteAt(ctx, want, 0, false), block.Fenced)
	_, err = s.Open(ctx, a.ExportName+".0.3", "t", nil)
	wantKind(t, err, block.NotFound)
	mustDo(t, fresh.Close())
	mustDo(t, other.Close())
	mustDo(t, s.Close())
	s = mustOpen(t, testOptions(t, fs))
	got := must[[]AttachmentInfo](t)(s.Attachments(ctx, "v", ""))
	if len(got) != 1 || got[0].ID != b.ID || got[0].Generation != b.Generation {
		t.Errorf("after a restart: %+v, want %+v", got, b)
	}
	_, err = s.Delete(ctx, "v", false)
	wantKind(t, err, block.Busy)
	mustDo(t, s.Detach(ctx, b.ID))
	must[[]string](t)(s.Delete(ctx, "v", false))
}

// A write that was held up behind its range must not land after its connection
// was replaced (contract C9).
func TestStaleWriteNeverLands(t *testing.T) {
	ctx := context.Background()
	s := mustOpen(t, testOptions(t, vfs.NewMem()))
	must[Info](t)(s.Create(ctx, "v", mib))
	a := must[AttachmentInfo](t)(s.Attach(ctx, AttachRequest{Target: "v", Worker: "w"}))
	old := must[*Device](t)(s.Open(ctx, a.ExportName+".0.1", "t", nil))
	hold := old.v.head.Load().Lock(0, 1)
	result := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		close(started)
		result <- old.WriteAt(ctx, pattern(1, 4096), 0, false)
	}()
	<-started
	replaced := make(chan *Device, 1)
	go func() {
		d, err := s.Open(ctx, a.ExportName+".0.2", "t", nil)
		if err != nil {
			t.Error(err)
		}
		replaced <- d
	}()
	for !old.fenced.Load() { // the old one is marked before the new one waits for it
		time.Sleep(time.Millisecond)
	}
	hold.Unlock()
	fresh := <-replaced
	want := pattern(2, 4096)
	mustDo(t, fresh.WriteAt(ctx, want, 0, false))
	wantKind(t, <-result, block.Fenced)
	same(t, "the newer write", readAll(t, fresh)[:4096], want)
	mustDo(t, old.Close())
	mustDo(t, fresh.Close())
}

func TestImports(t *testing.T) {
	ctx := context.Background()
	now := time.Unix(1e9, 0)
	o := testOptions(t, vfs.NewMem())
	o.Now = func() time.Time { return now }
	s := mustOpen(t, o)
	fill := func(snapshot string, p []byte) string {
		id, a, err := s.BeginImport(ctx, "img", snapshot, mib)
		mustDo(t, err)
		d := openDevice(t, s, a.ExportName+".0.1")
		mustDo(t, d.WriteAt(ctx, p, 0, false))
		mustDo(t, d.Close())
		return id
	}
	p1, p2 := pattern(1, mib), pattern(2, mib)
	id := fill("1", p1)
	if l := must[[]Info](t)(s.List(ctx, "")); len(l) != 0 {
		t.Fatalf("an import shows: %+v", l)
	}
	must[SnapshotInfo](t)(s.FinishImport(ctx, id))
	must[SnapshotInfo](t)(s.FinishImport(ctx, fill("2", p2)))
	same(t, "first", readAll(t, openDevice(t, s, "img@1")), p1)
	same(t, "second", readAll(t, openDevice(t, s, "img@2")), p2)
	same(t, "head", readAll(t, openDevice(t, s, "img")), p1)
	_, _, err := s.BeginImport(ctx, "img", "2", mib)
	wantKind(t, err, block.Exists)

	id = fill("3", p1)
	mustDo(t, s.AbortImport(ctx, id))
	_, err = s.FinishImport(ctx, id)
	wantKind(t, err, block.NotFound)
	id = fill("4", p1)
	now = now.Add(importIdle + time.Second)
	s.reapImports(ctx)
	_, err = s.FinishImport(ctx, id)
	wantKind(t, err, block.NotFound)
	if len(s.volumes) != 1 || len(s.attachments) != 0 {
		t.Errorf("%d volumes and %d attachments are left, want 1 and 0", len(s.volumes), len(s.attachments))
	}
}
