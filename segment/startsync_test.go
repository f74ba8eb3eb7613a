package segment

import (
	"context"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// dirtyPages is how many pages of a file's first bytes wait for their write-back
// to begin.
func dirtyPages(t *testing.T, l *Log, s *segFile, bytes uint64) uint64 {
	t.Helper()
	f, err := l.acquire(s)
	if err != nil {
		t.Fatal(err)
	}
	defer s.release()
	var c unix.Cachestat_t
	err = unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Len: bytes}, &c, 0)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		t.Skipf("cachestat: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c.Dirty
}

// TestStartSync: what was settled is on its way to the disk, if nobody else syncs;
// what was not settled is not the caller's.
func TestStartSync(t *testing.T) {
	ctx := context.Background()
	l := openLog(t, Options{FS: vfs.Default, Dir: t.TempDir(), SegmentBytes: 4 << 20, zeroAhead: zeroNever})
	if _, _, err := l.Replay(ctx, Pos{}, 0, nil); err != nil {
		t.Fatal(err)
	}
	put := func() {
		t.Helper()
		data := make([]byte, block.Size)
		data[0] = 1
		if _, err := l.Append(Record{Kind: Data, Layer: 1, Count: 1}, data, nil); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put()
	must(l.Settle())
	if dirtyPages(t, l, l.tail, 4<<20) == 0 {
		t.Skip("this file system writes through")
	}
	for _, c := range []struct {
		name      string
		syncers   company
		more      bool // appended and not settled
		writesOut bool
	}{
		{"company", 0, false, false},
		{"unsettled", -1, true, false},
		{"alone", -1, false, true},
	} {
		must(l.Sync(ctx))
		put()
		must(l.Settle())
		if c.more {
			put()
		}
		l.syncers = c.syncers
		l.StartSync()
		if out := dirtyPages(t, l, l.tail, 4<<20) == 0; out != c.writesOut {
			t.Errorf("%s: it begins to write: %t, want %t", c.name, out, c.writesOut)
		}
	}
	mustClose(t, l)
	l.StartSync() // nothing to write to
}
