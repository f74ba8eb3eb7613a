package segment

import (
	"bytes"
	"context"
	"os"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// diskLog opens a log in a directory of a real file system, which is what can
// be mapped.
func diskLog(t *testing.T, dir string) *Log {
	t.Helper()
	o := testOptions(vfs.Default, false)
	o.Dir = dir
	l := openLog(t, o)
	if _, _, err := l.Replay(context.Background(), Pos{}, 1, func(Record) error { return nil }); err != nil {
		t.Fatal(err)
	}
	return l
}

// fillSegment appends runs of bytes b until the log is in another segment, and
// returns the address of the first run.
func fillSegment(t *testing.T, l *Log, b byte) block.Addr {
	t.Helper()
	data := bytes.Repeat([]byte{b}, 10*block.Size)
	var first block.Addr
	for {
		r, err := l.Append(Record{Kind: Data, Layer: 1, First: 7, Count: 10}, data, nil)
		if err == nil {
			err = l.Sync(context.Background())
		}
		if err != nil {
			t.Fatal(err)
		}
		if first == 0 {
			first = r.Addr
		}
		if r.Addr.Segment() != first.Segment() {
			return first
		}
	}
}

func keptSpares(l *Log) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.spares)
}

func testPipe(t *testing.T) (r, w int) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) })
	return fds[0], fds[1]
}

// TestLentPagesStay lends pages, deletes their segment and writes more segments
// than there are spares: what was lent is still what it was (S9). One that was
// not lent is used again all the same.
func TestLentPagesStay(t *testing.T) {
	dir := t.TempDir()
	l := diskLog(t, dir)
	defer func() { mustClose(t, l) }()
	lent := fillSegment(t, l, 'a')
	other := fillSegment(t, l, 'b')
	r, w := testPipe(t)
	var verified []byte
	if !l.Lend(lent, 5, w, func(p []byte) bool { verified = bytes.Clone(p); return true }) {
		t.Fatal("what was just written is not lent")
	}
	want := bytes.Repeat([]byte{'a'}, 5*block.Size)
	if !bytes.Equal(verified, want) {
		t.Error("verify was not called with what was written")
	}
	for _, id := range []block.SegmentID{lent.Segment(), other.Segment()} {
		if err := l.Delete(id); err != nil {
			t.Fatal(err)
		}
	}
	if kept := keptSpares(l); len(kept) != 1 {
		t.Errorf("spares %v: want the one that was not lent", kept)
	}
	for range 4 {
		fillSegment(t, l, 'c')
	}
	got := make([]byte, len(want))
	if n, err := unix.Read(r, got); n != len(got) || err != nil {
		t.Fatalf("read %d bytes of the pipe: %v", n, err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("what was lent changed under way: it is %q now", got[:8])
	}
	if l.Lend(lent, 5, w, func([]byte) bool { return true }) {
		t.Error("a segment that is gone was lent")
	}
}

// TestLentByAnother: segments that an earlier process left may have been lent by
// it (S9).
func TestLentByAnother(t *testing.T) {
	dir := t.TempDir()
	l := diskLog(t, dir)
	old := fillSegment(t, l, 'a')
	mustClose(t, l)
	l = diskLog(t, dir)
	defer mustClose(t, l)
	if err := l.Delete(old.Segment()); err != nil {
		t.Fatal(err)
	}
	if kept := keptSpares(l); len(kept) != 0 {
		t.Errorf("spares %v: want none of an earlier process", kept)
	}
}

// TestViewOfACutFile: a file that somebody cut is an error of the read, not the
// end of the process, also when its pages were in memory a moment ago.
func TestViewOfACutFile(t *testing.T) {
	l := diskLog(t, t.TempDir())
	defer mustClose(t, l)
	at := fillSegment(t, l, 'a')
	p := make([]byte, block.Size)
	for range 3 { // the granule is asked for, looked at, and used
		if ok, err := l.ReadNow(at, p); !ok || err != nil || p[0] != 'a' {
			t.Fatalf("read: %v, %v, %q", ok, err, p[:1])
		}
	}
	s := l.segment(at.Segment())
	if s.view.Load() == nil {
		t.Skip("files cannot be mapped here")
	}
	if err := os.Truncate(s.path, 0); err != nil {
		t.Fatal(err)
	}
	if ok, _ := l.ReadNow(at, p); ok {
		t.Error("ReadNow of a block that is not there returns true")
	}
	_, w := testPipe(t)
	if l.Lend(at, 1, w, func(p []byte) bool { return p[0] == 'a' }) {
		t.Error("a block that is not there is lent")
	}
	if err := l.ReadAt(at, p); !block.Is(err, block.Corrupt) {
		t.Errorf("ReadAt of a block that is not there: %v", err)
	}
}

// TestLendVerifies: what does not verify is not lent, and nothing that is not in
// a file.
func TestLendVerifies(t *testing.T) {
	l := diskLog(t, t.TempDir())
	defer mustClose(t, l)
	at := fillSegment(t, l, 'a')
	_, w := testPipe(t)
	if l.Lend(at, 2, w, func([]byte) bool { return false }) {
		t.Error("what did not verify is lent")
	}
	r, err := l.Append(Record{Kind: Data, Layer: 1, First: 7, Count: 1}, make([]byte, block.Size), nil)
	if err != nil {
		t.Fatal(err)
	}
	if l.Lend(r.Addr, 1, w, func([]byte) bool { return true }) {
		t.Error("a block that is in memory only is lent")
	}
}

// TestViewsAreBounded makes room for a view by dropping one that was not used.
func TestViewsAreBounded(t *testing.T) {
	l := diskLog(t, t.TempDir())
	defer mustClose(t, l)
	p := make([]byte, block.Size)
	var at []block.Addr
	for range 3 {
		at = append(at, fillSegment(t, l, 'a'))
		if ok, err := l.ReadNow(at[len(at)-1], p); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	w := &l.views
	w.mu.Lock()
	had := len(w.of)
	ok := w.makeRoom(maxViewBytes - w.bytes + 1)
	w.mu.Unlock()
	if had == 0 {
		t.Skip("files cannot be mapped here")
	}
	if !ok || len(w.of) >= had {
		t.Errorf("%d views of %d are left: want fewer", len(w.of), had)
	}
	for _, a := range at {
		if ok, err := l.ReadNow(a, p); !ok || err != nil || p[0] != 'a' {
			t.Errorf("read after views were dropped: %v, %v", ok, err)
		}
	}
}

// TestLentOfTheTail lends each run of the segment that is being written as soon
// as it is in the file: settling, syncing and sealing leave it alone (S10).
func TestLentOfTheTail(t *testing.T) {
	l := diskLog(t, t.TempDir())
	defer mustClose(t, l)
	var pipes []int
	var want [][]byte
	for i, last := 0, block.SegmentID(0); last < 3; i++ {
		data := bytes.Repeat([]byte{byte(i + 1)}, (1+i%9)*block.Size)
		r, err := l.Append(Record{Kind: Data, Layer: 1, First: 7, Count: uint32(1 + i%9)}, data, nil)
		if err == nil && i%3 == 0 {
			err = l.Settle()
		}
		if err == nil {
			err = l.Sync(context.Background())
		}
		if err != nil {
			t.Fatal(err)
		}
		last = r.Addr.Segment()
		pr, pw := testPipe(t)
		if !l.Lend(r.Addr, r.Count, pw, func(p []byte) bool { return bytes.Equal(p, data[:len(p)]) }) {
			t.Fatalf("run %d at %v is not lent", i, r.Addr)
		}
		pipes, want = append(pipes, pr), append(want, data[:int(r.Count)*block.Size])
	}
	for i, r := range pipes {
		got := make([]byte, len(want[i])+1)
		if n, err := unix.Read(r, got); err != nil || !bytes.Equal(got[:n], want[i]) {
			t.Fatalf("run %d: %d bytes, %v: want the %d that were lent", i, n, err, len(want[i]))
		}
	}
}
