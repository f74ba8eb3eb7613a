package volume

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
)

// TestLendIsVerified flips one byte of each block in turn in the segment file:
// neither a loan nor a read from the mapping hands it out, also when the same
// pages were lent just before.
func TestLendIsVerified(t *testing.T) {
	ctx := context.Background()
	o := testOptions(t, vfs.Default)
	o.Dir = filepath.Join(t.TempDir(), "store")
	s := mustOpen(t, o)
	const blocks = 16
	must[Info](t)(s.Create(ctx, "v", mib))
	d := openDevice(t, s, "v")
	want := pattern(1, blocks*block.Size)
	mustDo(t, d.WriteAt(ctx, want, 0, true))
	lend := func() []byte {
		t.Helper()
		r, w, err := os.Pipe()
		mustDo(t, err)
		defer func() { _ = r.Close() }()
		ok := d.LendNow(int(w.Fd()), 0, blocks*block.Size)
		mustDo(t, w.Close())
		if !ok {
			return nil
		}
		return must[[]byte](t)(io.ReadAll(r))
	}
	same(t, "lent", lend(), want)
	files := must[[]string](t)(filepath.Glob(filepath.Join(o.Dir, "segments", "*.seg")))
	hit := false
	for _, name := range files {
		f := must[*os.File](t)(os.OpenFile(name, os.O_RDWR, 0))
		contents := must[[]byte](t)(io.ReadAll(f))
		at := bytes.Index(contents, want)
		if at < 0 {
			mustDo(t, f.Close())
			continue
		}
		hit = true
		for i := range blocks {
			off := int64(at + i*block.Size + i*255)
			flip := func(bit byte) { must[int](t)(f.WriteAt([]byte{contents[off] ^ bit}, off)) }
			flip(1)
			if lend() != nil {
				t.Errorf("block %d does not verify and is lent", i)
			}
			p := make([]byte, block.Size)
			if ok, _ := d.ReadNow(p, uint64(i)*block.Size); ok {
				t.Errorf("block %d does not verify and is read", i)
			}
			wantKind(t, d.ReadAt(ctx, p, uint64(i)*block.Size), block.Corrupt)
			flip(0)
			same(t, "lent again", lend(), want)
		}
		mustDo(t, f.Close())
	}
	if !hit {
		t.Fatalf("the data is in none of %v", files)
	}
}

// TestLendOfMixed: what is zero in part, not aligned or scattered is not lent.
func TestLendOfMixed(t *testing.T) {
	ctx := context.Background()
	o := testOptions(t, vfs.Default)
	o.Dir = filepath.Join(t.TempDir(), "store")
	s := mustOpen(t, o)
	must[Info](t)(s.Create(ctx, "v", mib))
	d := openDevice(t, s, "v")
	mustDo(t, d.WriteAt(ctx, pattern(1, 16*block.Size), 0, false))
	for i := range uint64(16) {
		mustDo(t, d.WriteAt(ctx, pattern(i, block.Size), (32+15-i)*block.Size, false))
	}
	mustDo(t, d.Flush(ctx))
	_, w, err := os.Pipe()
	mustDo(t, err)
	defer func() { _ = w.Close() }()
	for _, c := range []struct {
		what        string
		off, length uint64
	}{
		{"with a hole", 8 * block.Size, 16 * block.Size}, {"not aligned", 512, 8 * block.Size}, {"scattered", 32 * block.Size, 16 * block.Size},
		{"of nothing", 0, 0},
	} {
		if d.LendNow(int(w.Fd()), c.off, c.length) {
			t.Errorf("a range %s is lent", c.what)
		}
	}
}
