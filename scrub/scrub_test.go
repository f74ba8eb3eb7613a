package scrub

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/volume"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
	return must[*volume.Store](t)(volume.Open(volume.Options{Dir: "store", FS: fs, SegmentBytes: 1 << 20, MapCacheBytes: 1 << 20,
		PageCacheBytes: 1 << 20, CommitInterval: time.Hour}))
}

// fill makes three volumes in segments of their own, and returns how many blocks
// live.
func fill(t testing.TB, s *volume.Store) uint64 {
	t.Helper()
	ctx := context.Background()
	for k, name := range []string{"a", "b", "c"} {
		must[volume.Info](t)(s.Create(ctx, name, 600*block.Size))
		d := must[*volume.Device](t)(s.Open(ctx, name, "test", nil))
		p := make([]byte, 500*block.Size)
		for i := range p {
			p[i] = byte(k + 1 + i/block.Size)
		}
		mustDo(t, d.WriteAt(ctx, p, 0, true))
		mustDo(t, d.Close())
		mustDo(t, s.Log().Rotate(ctx))
	}
	must[volume.SnapshotInfo](t)(s.Snapshot(ctx, "b", "s"))
	mustDo(t, s.Flush(ctx))
	return s.Tree().LiveBlocks()
}

func scrubber(t testing.TB, s *volume.Store, o Options) *Scrubber {
	t.Helper()
	o.sliceBlocks = 100
	return must[*Scrubber](t)(New(s, o))
}

// TestResume: a scrub goes on after a restart with the slice that it was at, and
// reads every live block (U2). What the last one found stays known (U1).
func TestResume(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := open(t, fs)
	live := fill(t, s)
	c := scrubber(t, s, Options{})
	mustDo(t, c.Start())
	for range 2 {
		if !c.slice(ctx) {
			t.Fatal(c.Status().Problem)
		}
	}
	was := c.Status()
	if was.After == 0 || was.Done == 0 || was.Done >= live || was.Total != live {
		t.Fatalf("after two slices: %+v, of %d live blocks", was, live)
	}
	mustDo(t, s.Close())
	s = open(t, fs)
	c = scrubber(t, s, Options{})
	if got := c.Status(); got.After != was.After || !got.Running || got.Done != was.Done {
		t.Fatalf("after a restart: %+v, want %+v", got, was)
	}
	for n := 0; c.Status().Running; n++ {
		if n > 50 || !c.slice(ctx) {
			t.Fatalf("%+v", c.Status())
		}
	}
	if got := c.Status(); got.Done != live || got.Runs != 1 || len(got.Damages) > 0 || got.Finished.IsZero() {
		t.Errorf("at the end: %+v, want %d blocks and no damage", got, live)
	}
	mustDo(t, s.Close())
}

// TestFindsDamage: what is damaged is named with who sees it, is remembered over
// a restart, and does not end the scrub.
func TestFindsDamage(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := open(t, fs)
	live := fill(t, s)
	mustDo(t, s.Close())
	names := slices.DeleteFunc(must[[]string](t)(fs.List("store/segments")), func(n string) bool { return !strings.HasSuffix(n, ".seg") })
	slices.Sort(names)
	for _, i := range []int{0, len(names) / 2} { // of a, and of b
		f := must[vfs.File](t)(fs.OpenReadWrite("store/segments/"+names[i], vfs.WriteCategoryUnspecified))
		must[int](t)(f.WriteAt([]byte("damage"), 100*block.Size))
		mustDo(t, f.Close())
	}
	s = open(t, fs)
	c := scrubber(t, s, Options{})
	mustDo(t, c.Start())
	for c.Status().Running {
		if !c.slice(ctx) {
			t.Fatal(c.Status().Problem)
		}
	}
	mustDo(t, s.Close())
	s = open(t, fs)
	got := scrubber(t, s, Options{}).Status()
	var affected []string
	for _, d := range got.Damages {
		affected = append(affected, d.Affected...)
	}
	slices.Sort(affected)
	if affected = slices.Compact(affected); !slices.Equal(affected, []string{"a", "b", "b@s"}) {
		t.Errorf("damage touches %q, want a, b and b@s: %v", affected, got.Damages)
	}
	if got.Done != live || got.Runs != 1 {
		t.Errorf("the scrub read %d blocks of %d", got.Done, live)
	}
	mustDo(t, s.Close())
}

// TestScheduleAndStop runs the loop: a scrub begins when its time has come, rests
// when stopped, goes on when started, and keeps to its rate.
func TestScheduleAndStop(t *testing.T) {
	s := open(t, vfs.NewMem())
	live := fill(t, s)
	var mu sync.Mutex
	now := time.Unix(1000, 0)
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	c := scrubber(t, s, Options{Every: time.Hour, Now: clock, BytesPerSecond: 1 << 20})
	ctx, stop := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { c.Run(ctx) })
	until := func(what string, ok func(State) bool) {
		t.Helper()
		for end := time.Now().Add(60 * time.Second); !ok(c.Status()); {
			if time.Now().After(end) {
				t.Fatalf("%s: %+v", what, c.Status())
			}
			time.Sleep(time.Millisecond)
		}
	}
	until("it never began", func(s State) bool { return s.Running })
	mustDo(t, c.Stop())
	if c.Status().Running {
		t.Error("it runs though it was stopped")
	}
	c.mu.Lock()
	c.o.BytesPerSecond = 0
	c.mu.Unlock()
	mustDo(t, c.Start())
	until("it never ended", func(s State) bool { return s.Runs == 1 && s.Done == live })
	mu.Lock()
	now = now.Add(2 * time.Hour)
	mu.Unlock()
	c.nudge()
	until("it did not begin anew", func(s State) bool { return s.Runs == 2 })
	stop()
	done.Wait()
	mustDo(t, s.Close())
}

func TestLimit(t *testing.T) {
	l := &limit{bytesPerSecond: 1 << 30}
	for range 3 {
		mustDo(t, l.wait(context.Background(), 1<<20))
	}
	if ahead := time.Until(l.next); ahead > 2*time.Millisecond {
		t.Errorf("the next MiB at 1 GiB/s waits for %v", ahead)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	l.next = time.Now().Add(time.Hour)
	if err := l.wait(ctx, 1); err == nil {
		t.Error("it waited for an hour")
	}
}
