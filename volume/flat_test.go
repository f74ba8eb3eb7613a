package volume

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
)

// countFS counts what the extent map reads, writes and syncs.
type countFS struct {
	vfs.FS
	read, written, syncs *atomic.Int64
}

func newCountFS() countFS {
	return countFS{vfs.NewMem(), new(atomic.Int64), new(atomic.Int64), new(atomic.Int64)}
}

func (c countFS) wrap(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil || !strings.Contains(name, "map/") {
		return f, err
	}
	return countFile{f, c}, nil
}

func (c countFS) Create(name string, k vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := c.FS.Create(name, k)
	return c.wrap(name, f, err)
}

func (c countFS) ReuseForWrite(o, n string, k vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := c.FS.ReuseForWrite(o, n, k)
	return c.wrap(n, f, err)
}

func (c countFS) Open(name string, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := c.FS.Open(name, o...)
	return c.wrap(name, f, err)
}

type countFile struct {
	vfs.File
	c countFS
}

func (f countFile) Read(p []byte) (int, error) { f.c.read.Add(int64(len(p))); return f.File.Read(p) }

func (f countFile) ReadAt(p []byte, off int64) (int, error) {
	f.c.read.Add(int64(len(p)))
	return f.File.ReadAt(p, off)
}

func (f countFile) Write(p []byte) (int, error) {
	f.c.written.Add(int64(len(p)))
	return f.File.Write(p)
}

func (f countFile) Sync() error     { f.c.syncs.Add(1); return f.File.Sync() }
func (f countFile) SyncData() error { f.c.syncs.Add(1); return f.File.SyncData() }

// flatCost is what an operation does to the extent map's files.
type flatCost struct{ read, written, syncs int64 }

// flatStore makes a store with a volume "v" of the given extents and depth.
func flatStore(t *testing.T, sizeBytes uint64, extents, depth int) (*Store, countFS) {
	t.Helper()
	ctx := context.Background()
	fs := newCountFS()
	o := testOptions(t, fs)
	o.SegmentBytes, o.MapCacheBytes = 256*mib, 64*mib
	s := mustOpen(t, o)
	must[Info](t)(s.Create(ctx, "v", sizeBytes))
	d := must[*Device](t)(s.Open(ctx, "v", "test", nil))
	p := make([]byte, block.Size)
	p[0] = 1
	for i := range extents {
		mustDo(t, d.WriteAt(ctx, p, uint64(i)*(sizeBytes/uint64(extents)/block.Size)*block.Size, false))
	}
	mustDo(t, d.Close())
	for i := range depth {
		must[SnapshotInfo](t)(s.Snapshot(ctx, "v", fmt.Sprintf("s%04d", i)))
	}
	mustDo(t, s.Flush(ctx))
	return s, fs
}

// TestFlat: snapshot, clone and delete read, write and sync the same whatever
// the size, the extents and the depth of the volume; a clone is at most two
// syncs and 1 KiB (contract C2).
func TestFlat(t *testing.T) {
	ctx := context.Background()
	var want map[string]flatCost
	for _, c := range []struct {
		size           uint64
		extents, depth int
	}{{1 << 30, 10, 1}, {16 << 40, 10, 1}, {1 << 30, 20_000, 1}, {1 << 30, 10, 200}} {
		s, fs := flatStore(t, c.size, c.extents, c.depth)
		got := map[string]flatCost{}
		cost := func(op string, fn func() error) {
			t.Helper()
			r, w, n := fs.read.Load(), fs.written.Load(), fs.syncs.Load()
			mustDo(t, fn())
			got[op] = flatCost{fs.read.Load() - r, fs.written.Load() - w, fs.syncs.Load() - n}
		}
		cost("snapshot", func() error { _, err := s.Snapshot(ctx, "v", "new"); return err })
		cost("clone", func() error { _, err := s.Clone(ctx, "v", "new", "clone"); return err })
		cost("delete", func() error { _, err := s.Delete(ctx, "clone", false); return err })
		cost("delete snapshot", func() error { return s.DeleteSnapshot(ctx, "v", "new") })
		t.Logf("%+v: %+v", c, got)
		if want == nil {
			want = got
		}
		if k := got["clone"]; k.syncs > 2 || k.written > 1024 {
			t.Errorf("a clone wrote %d bytes with %d syncs, want at most 1024 and 2", k.written, k.syncs)
		}
		for op, w := range want {
			g := got[op]
			// Numbers and sizes in the records have more or fewer digits.
			if g.read != w.read || g.syncs != w.syncs || max(g.written-w.written, w.written-g.written) > 32 {
				t.Errorf("%s of %+v costs %+v, and %+v of a small volume", op, c, g, w)
			}
		}
	}
}

// TestOpenReadsNoMap: opening a volume and its clone reads nothing of the
// extent map, however large that is.
func TestOpenReadsNoMap(t *testing.T) {
	s, fs := flatStore(t, 1<<30, 20_000, 3)
	must[Info](t)(s.Clone(context.Background(), "v", "s0001", "clone"))
	mustDo(t, s.Close()) // so that the map is in files
	s = mustOpen(t, s.o)
	before := fs.read.Load()
	var d *Device
	for _, name := range []string{"v", "clone", "v@s0001"} {
		d = openDevice(t, s, name)
	}
	if n := fs.read.Load() - before; n != 0 {
		t.Errorf("opening read %d bytes of the map, want none", n)
	}
	// In the middle: the first pages may have come in beside the catalog.
	mustDo(t, d.ReadAt(context.Background(), make([]byte, block.Size), 1<<29))
	if fs.read.Load() == before {
		t.Error("the first read did not read the map either: the count sees nothing")
	}
}
