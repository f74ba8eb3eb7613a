package volume

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
)

func changedText(t *testing.T, d *Device, b *Base, off, length uint64, limit int) string {
	t.Helper()
	text := ""
	for _, c := range must[[]Changed](t)(d.Changed(context.Background(), nil, b, off, length, limit)) {
		text += fmt.Sprintf("%d:%v ", c.LengthBytes, c.Differs)
	}
	return text
}

// TestChanged compares a volume with its snapshots, and a clone with what it is
// of.
func TestChanged(t *testing.T) {
	ctx := context.Background()
	s := mustOpen(t, testOptions(t, vfs.NewMem()))
	must[Info](t)(s.Create(ctx, "v", 4*mib))
	d := openDevice(t, s, "v")
	mustDo(t, d.WriteAt(ctx, pattern(1, 4*block.Size), 0, false))
	must[SnapshotInfo](t)(s.Snapshot(ctx, "v", "a"))
	base := must[*Base](t)(s.OpenBase(ctx, "v@a", "test"))
	if got := changedText(t, d, base, 0, 4*mib, 10); got != "4194304:false " {
		t.Errorf("nothing was written: %s", got)
	}
	mustDo(t, d.WriteAt(ctx, pattern(2, block.Size), block.Size, false))
	mustDo(t, d.Trim(ctx, 3*block.Size, block.Size, false))
	mustDo(t, d.Trim(ctx, 2*mib, mib, false)) // was zero, and is
	mustDo(t, d.WriteAt(ctx, []byte("x"), 2*mib+5, false))
	for _, tc := range []struct {
		off, length uint64
		limit       int
		want        string
	}{
		{0, 4 * mib, 10, "4096:false 4096:true 4096:false 4096:true 2080768:false 4096:true 2093056:false "},
		{0, 4 * mib, 2, "4096:false 4096:true "},
		{5000, 100, 10, "100:true "},
		{4000, 200, 10, "96:false 104:true "},
	} {
		if got := changedText(t, d, base, tc.off, tc.length, tc.limit); got != tc.want {
			t.Errorf("%d+%d: %swant %s", tc.off, tc.length, got, tc.want)
		}
	}
	wantKind(t, s.DeleteSnapshot(ctx, "v", "a"), block.Busy)
	must[Info](t)(s.Clone(ctx, "v", "a", "c"))
	must[Info](t)(s.Resize(ctx, "c", 8*mib))
	c := openDevice(t, s, "c")
	mustDo(t, c.WriteAt(ctx, pattern(3, block.Size), 6*mib, false))
	if got := changedText(t, c, base, 0, 8*mib, 10); got != "6291456:false 4096:true 2093056:false " {
		t.Errorf("the clone: %s", got)
	}
	mustDo(t, base.Close())
	mustDo(t, s.DeleteSnapshot(ctx, "v", "a"))
	for _, name := range []string{"v", "v@none", "none@a", ""} {
		if _, err := s.OpenBase(ctx, name, "test"); err == nil {
			t.Errorf("%q opens as a snapshot", name)
		}
	}
}

// TestChangedIsEnough: a copy of a snapshot with the runs that differ written
// over it is the volume, after random writes, snapshots and their deletion.
func TestChangedIsEnough(t *testing.T) {
	ctx := context.Background()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	s := mustOpen(t, testOptions(t, vfs.NewMem()))
	must[Info](t)(s.Create(ctx, "v", 2*mib))
	d := openDevice(t, s, "v")
	for round := range 12 {
		name := fmt.Sprintf("s%d", round)
		must[SnapshotInfo](t)(s.Snapshot(ctx, "v", name))
		base := must[*Base](t)(s.OpenBase(ctx, "v@"+name, "test"))
		backup := readAll(t, d)
		for range 1 + rng.IntN(30) {
			off, n := rng.Uint64N(2*mib-50000), 1+rng.Uint64N(50000)
			if rng.IntN(3) == 0 {
				mustDo(t, d.Trim(ctx, off, n, false))
			} else {
				mustDo(t, d.WriteAt(ctx, pattern(rng.Uint64(), int(n)), off, false))
			}
		}
		if round%3 == 2 {
			must[SnapshotInfo](t)(s.Snapshot(ctx, "v", name+"x"))
			mustDo(t, s.DeleteSnapshot(ctx, "v", name+"x"))
		}
		want := readAll(t, d)
		at := uint64(0)
		for at < 2*mib {
			for _, c := range must[[]Changed](t)(d.Changed(ctx, nil, base, at, 2*mib-at, 3)) {
				if c.Differs {
					copy(backup[at:at+c.LengthBytes], want[at:])
				}
				at += c.LengthBytes
			}
		}
		if !bytes.Equal(backup, want) {
			t.Fatalf("round %d: what differs is not all that was changed", round)
		}
		mustDo(t, base.Close())
	}
}
