package volume

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
	"github.com/slackerd/slacker/gc"
	"github.com/slackerd/slacker/segment"
)

// TestOrphans plants what nothing refers to in a store on the disk: each is
// listed, what the collector may take it takes, and the rest stays listed.
func TestOrphans(t *testing.T) {
	ctx := context.Background()
	o := testOptions(t, vfs.Default)
	o.Dir, o.SpareSegments = t.TempDir(), 0
	segments := filepath.Join(o.Dir, "segments")
	s := must[*Store](t)(Open(o))
	must[Info](t)(s.Create(ctx, "v", 8*mib))
	d := openDevice(t, s, "v")
	write := func(seed uint64) {
		for off := uint64(0); off < 3*mib; off += mib {
			mustDo(t, d.WriteAt(ctx, pattern(seed+off, mib), off, true))
		}
	}
	write(1)
	if orphans := must[[]Orphan](t)(s.Orphans(ctx)); len(orphans) > 0 {
		t.Fatalf("a new store has orphans: %+v", orphans)
	}
	must[SnapshotInfo](t)(s.Snapshot(ctx, "v", "s"))
	write(2)
	must[SnapshotInfo](t)(s.Snapshot(ctx, "v", "later"))
	mustDo(t, d.Close())
	must[Info](t)(s.Rollback(ctx, "v", "s"))
	mustDo(t, s.DeleteSnapshot(ctx, "v", "later")) // its layer has nobody now
	strayMap(t, s)
	mustDo(t, s.Close())

	mustDo(t, os.WriteFile(filepath.Join(segments, "notes.txt"), []byte("seven.."), 0o600))
	torn := segment.FileName(1 << 20) // damaged, of a number to come: no counter knows it
	mustDo(t, os.WriteFile(filepath.Join(segments, torn), append([]byte{1}, make([]byte, mib-1)...), 0o600))
	s = must[*Store](t)(Open(o))
	defer func() { mustDo(t, s.Close()) }()

	wantOrphans(t, s, map[string]bool{"file segments/notes.txt": false, "segment " + torn: false, "map": false, "layer": true})
	_, faults, err := gc.New(s, gc.Options{}).Collect(ctx, false, nil)
	if err != nil || len(faults) > 0 {
		t.Fatalf("collect: %q, %v", faults, err)
	}
	wantOrphans(t, s, map[string]bool{"file segments/notes.txt": false, "segment " + torn: false, "map": false})
	for name, size := range map[string]int64{"notes.txt": 7, torn: mib} {
		if info, err := os.Stat(filepath.Join(segments, name)); err != nil || info.Size() != size {
			t.Errorf("%s was touched: %v", name, err)
		}
	}
}

// strayMap commits pages of a layer whose record is not there.
func strayMap(t *testing.T, s *Store) {
	t.Helper()
	x := must[*cow.Tx](t)(s.begin())
	l := s.tree.Add(block.LayerID(s.id(x)), nil)
	s.mu.Unlock()
	pin := must[*cow.Pin](t)(s.tree.Pin(l, 0, 1))
	c := &cow.Change{LSN: 1, Layer: l, Run: cow.Run{First: 0, Count: 1}}
	pin.Apply(c, false)
	pin.Release()
	x.ApplyAll(s.tree, []*cow.Change{c})
	mustDo(t, x.Commit(true))
	s.tree.Drop(l)
}

// wantOrphans wants these orphans and no others; the value says whether the
// collector takes them, and a key without an object stands for any.
func wantOrphans(t *testing.T, s *Store, want map[string]bool) {
	t.Helper()
	found := map[string]bool{}
	for _, o := range must[[]Orphan](t)(s.Orphans(context.Background())) {
		key := o.Kind + " " + o.Object
		if _, ok := want[key]; !ok {
			key = o.Kind
		}
		if o.Kind == "segment" && !strings.Contains(o.Detail, "header") {
			continue // those that have died already
		}
		collected, ok := want[key]
		if !ok || collected != o.Collected || o.Detail == "" {
			t.Errorf("orphan %+v is listed, want %v", o, want)
		}
		found[key] = true
	}
	for key := range want {
		if !found[key] {
			t.Errorf("%s is not listed", key)
		}
	}
}
