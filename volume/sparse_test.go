package volume

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
)

const tib = 1 << 40

// TestSparseTrim: trimming and asking for the allocation of 8 TiB of which five
// blocks are written does not look at each page, and does what it says, also on
// top of layers and with changes that are not committed.
func TestSparseTrim(t *testing.T) {
	ctx := context.Background()
	s := must[*Store](t)(Open(testOptions(t, vfs.NewMem())))
	defer func() { mustDo(t, s.Close()) }()
	must[Info](t)(s.Create(ctx, "v", 8*tib))
	d := openDevice(t, s, "v")
	at := []uint64{0, tib + 1<<20, 3*tib - block.Size, 7 * tib, 8*tib - block.Size}
	for i, off := range at {
		mustDo(t, d.WriteAt(ctx, pattern(uint64(i+1), block.Size), off, false))
		if i == 2 {
			must[SnapshotInfo](t)(s.Snapshot(ctx, "v", "s"))
		}
		if i == 3 {
			mustDo(t, s.Flush(ctx))
		}
	}
	wantHeld := func(want []uint64) {
		t.Helper()
		var got []uint64
		off := uint64(0)
		for off < 8*tib {
			es := must[[]Extent](t)(d.Extents(ctx, nil, off, 8*tib-off, 3))
			for _, e := range es {
				if !e.Hole {
					got = append(got, off)
				}
				off += e.LengthBytes
			}
		}
		if len(got) != len(want) {
			t.Fatalf("data at %v, want %v", got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("data at %v, want %v", got, want)
			}
		}
	}
	before := s.tree.Lookups()
	wantHeld(at)
	mustDo(t, d.Trim(ctx, 3, tib-3, false)) // the first block stays: its three first bytes do
	mustDo(t, d.Trim(ctx, tib, 5*tib, false))
	wantHeld([]uint64{at[0], at[3], at[4]})
	mustDo(t, d.WriteZeroes(ctx, 0, 8*tib, false, true))
	wantHeld(nil)
	if n := s.tree.Lookups() - before; n > 5000 {
		t.Errorf("pages were looked up %d times: want about 64 for each one with data", n)
	}
	sd := openDevice(t, s, "v@s")
	got := make([]byte, block.Size)
	mustDo(t, sd.ReadAt(ctx, got, at[2]))
	if string(got) != string(pattern(3, block.Size)) {
		t.Error("the snapshot's block is not what it was")
	}
	mustDo(t, sd.Close())
	mustDo(t, d.Close())
}
