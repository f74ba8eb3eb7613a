package gc_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
	"github.com/slackerd/slacker/gc"
	"github.com/slackerd/slacker/volume"
)

// flip damages a byte of a block of the oldest segment file.
func flip(t *testing.T, fs vfs.FS, blockNo uint32) {
	t.Helper()
	names := must[[]string](t)(fs.List("store/segments"))
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, ".seg") })
	slices.Sort(names)
	f := must[vfs.File](t)(fs.OpenReadWrite("store/segments/"+names[0], vfs.WriteCategoryUnspecified))
	var b [1]byte
	off := int64(blockNo)*block.Size + 9
	must[int](t)(f.ReadAt(b[:], off))
	b[0] ^= 1
	must[int](t)(f.WriteAt(b[:], off))
	mustDo(t, f.Close())
}

// TestBadBlockDoesNotPinTheRest: one block of a run cannot be moved. It stays
// with its segment, which is reported; the others move.
func TestBadBlockDoesNotPinTheRest(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := open(t, fs)
	create(t, s, "v")
	put(t, s, "v", 0, 100, 1)
	put(t, s, "v", 200, 200, 2) // dies below
	put(t, s, "v", 200, 200, 3)
	mustDo(t, s.Flush(ctx))
	mustDo(t, s.Log().Rotate(ctx))
	put(t, s, "v", 500, 1, 4)
	mustDo(t, s.Flush(ctx))
	l := s.Tree().Layer(must[volume.Info](t)(s.Get(ctx, "v")).Head)
	var bad cow.Entry
	mustDo(t, s.Tree().Entries(ctx, l, func(i block.Index, e cow.Entry) error {
		if i == 57 {
			bad = e
		}
		return nil
	}, nil))
	id := bad.Addr.Segment()
	if first := s.Log().Segments()[0].ID; id != first || s.Tree().Live(id) < 100 {
		t.Fatalf("block 57 is at %v, of %d live blocks; wanted it in the oldest segment, %d", bad.Addr, s.Tree().Live(id), first)
	}
	flip(t, fs, bad.Addr.Block())
	_, faults, err := gc.New(s, gc.Options{CleanBelow: 0.99}).Collect(ctx, false, nil)
	mustDo(t, err)
	if len(faults) != 1 || !strings.Contains(faults[0], "block 57") {
		t.Errorf("faults %q: want one, that names block 57", faults)
	}
	if n := s.Tree().Live(id); n != 1 {
		t.Errorf("%d blocks live in the damaged segment, want the one that is damaged", n)
	}
	get(t, s, "v", 0, 57, 1)
	get(t, s, "v", 58, 42, 1)
	put(t, s, "v", 57, 1, 5)
	collect(t, s)
	if n := s.Log().Segments()[0].ID; n == id {
		t.Error("the segment is there after its last block was overwritten")
	}
	noDamage(t, s)
}

// TestDamagedHeaderDoesNotPinTheRest: what a segment's records cannot say any
// more, the map does.
func TestDamagedHeaderDoesNotPinTheRest(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := open(t, fs)
	create(t, s, "v")
	put(t, s, "v", 0, 60, 1)
	put(t, s, "v", 200, 160, 2)
	put(t, s, "v", 200, 160, 3)
	mustDo(t, s.Flush(ctx))
	mustDo(t, s.Log().Rotate(ctx))
	put(t, s, "v", 500, 1, 4)
	mustDo(t, s.Flush(ctx))
	id := s.Log().Segments()[0].ID
	flip(t, fs, 1) // the first chunk's header
	_, faults, err := gc.New(s, gc.Options{CleanBelow: 0.99}).Collect(ctx, false, nil)
	mustDo(t, err)
	if len(faults) != 1 {
		t.Errorf("faults %q: want one, that names the segment", faults)
	}
	if n := s.Log().Segments()[0].ID; n == id {
		t.Errorf("segment %d is still there, with %d live blocks", id, s.Tree().Live(id))
	}
	get(t, s, "v", 0, 60, 1)
	get(t, s, "v", 200, 160, 3)
	noDamage(t, s)
}
