package segment

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/slackerd/slacker/block"
)

// spares lists the spare files of a log in "/".
func spares(t *testing.T, fs vfs.FS) []string {
	t.Helper()
	names, err := fs.List("/")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, spareSuffix) })
}

// replayed opens the log in fs and returns the numbers of its records from pos
// on.
func replayed(t *testing.T, fs vfs.FS, pos Pos, next LSN) (*Log, []LSN) {
	t.Helper()
	l := openLog(t, testOptions(fs, false))
	var got []LSN
	if _, _, err := l.Replay(context.Background(), pos, next, func(r Record) error { got = append(got, r.LSN); return nil }); err != nil {
		t.Fatal(err)
	}
	return l, got
}

// TestSpareIsUsedAgain deletes segments and fills their files anew: with every
// cut of the new contents the records of the new segment come back, and none of
// the former one (S7).
func TestSpareIsUsedAgain(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l, _ := replayed(t, fs, Pos{}, 0)
	ctx := context.Background()
	data := make([]byte, 10*block.Size)
	add := func() Record {
		r, err := l.Append(Record{Kind: Data, Layer: 1, First: 7, Count: 10}, data, nil)
		if err == nil {
			err = l.Sync(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := add().Addr.Segment()
	last := add()
	for last.Addr.Segment() < first+4 {
		last = add()
	}
	var size int64
	for id := first; id < first+3; id++ {
		if err := l.Delete(id); err != nil {
			t.Fatal(err)
		}
	}
	if got := spares(t, fs); len(got) != 2 {
		t.Fatalf("spares after three deletions: %v: want 2", got)
	}
	if size = l.DiskBytes(); size > 3*MinSegmentBytes {
		t.Errorf("disk bytes %d count spares", size)
	}
	pos, lsn := l.DurablePos()
	used := last.Addr.Segment() + 2 // one more may have been prepared before
	for last = add(); last.Addr.Segment() < used; last = add() {
	}
	if got := spares(t, fs); len(got) > 1 {
		t.Fatalf("spares after two more segments: %v: want 1 at most", got)
	}
	want := []LSN{}
	for n := lsn + 1; n <= last.LSN; n++ {
		want = append(want, n)
	}
	for range 3 {
		crashed := fs.CrashClone(vfs.CrashCloneCfg{})
		again, got := replayed(t, crashed, pos, lsn+1)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("replayed %v: want %v", got, want)
		}
		if left := spares(t, crashed); len(left) != 0 {
			t.Errorf("a later process keeps %v", left)
		}
		mustClose(t, again)
		last = add()
		want = append(want, last.LSN)
	}
	mustClose(t, l)
	if left := spares(t, fs); len(left) != 0 {
		t.Errorf("closed with spares %v", left)
	}
}

// TestSpareHasNoHeader: a crash while a spare becomes a segment leaves a file
// that was never begun, not one whose header belongs to another segment.
func TestSpareHasNoHeader(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l, _ := replayed(t, fs, Pos{}, 0)
	defer mustClose(t, l)
	data := make([]byte, 50*block.Size)
	for len(l.Segments()) < 3 {
		if _, err := l.Append(Record{Kind: Data, Layer: 1, Count: 50}, data, nil); err != nil {
			t.Fatal(err)
		}
		if err := l.Sync(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Delete(1); err != nil {
		t.Fatal(err)
	}
	s := &segFile{id: 9, path: "/" + FileName(9)}
	f, err := l.recycle(l.takeSpare(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
	if err := l.syncDir(); err != nil {
		t.Fatal(err)
	}
	for _, fs := range []vfs.FS{crashed, fs.CrashClone(vfs.CrashCloneCfg{})} {
		again := openLog(t, testOptions(fs, false))
		if s := again.segment(9); s != nil && !s.blank {
			t.Errorf("the file of segment 9 has a header")
		}
		mustClose(t, again)
	}
}
