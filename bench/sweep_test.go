package bench

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/volume"
)

var (
	sweepJSON   = flag.String("sweep.json", "", "file that BenchmarkSweep writes its results to")
	sweepRounds = flag.Int("sweep.rounds", 60, "rounds of BenchmarkSweep")
)

// lazyFS leaves out syncs while off is set: a store is filled faster, and what
// the processor does shows, which the disk would hide.
type lazyFS struct {
	vfs.FS
	off *atomic.Bool
}

func (l lazyFS) wrap(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return f, err
	}
	return lazyFile{f, l.off}, nil
}

func (l lazyFS) Create(name string, k vfs.DiskWriteCategory) (vfs.File, error) {
	return l.wrap(l.FS.Create(name, k))
}

func (l lazyFS) ReuseForWrite(o, n string, k vfs.DiskWriteCategory) (vfs.File, error) {
	return l.wrap(l.FS.ReuseForWrite(o, n, k))
}

func (l lazyFS) OpenReadWrite(name string, k vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return l.wrap(l.FS.OpenReadWrite(name, k, o...))
}

func (l lazyFS) OpenDir(name string) (vfs.File, error) { return l.wrap(l.FS.OpenDir(name)) }

type lazyFile struct {
	vfs.File
	off *atomic.Bool
}

func (f lazyFile) Sync() error {
	if f.off.Load() {
		return nil
	}
	return f.File.Sync()
}

func (f lazyFile) SyncData() error {
	if f.off.Load() {
		return nil
	}
	return f.File.SyncData()
}

func (f lazyFile) SyncTo(n int64) (bool, error) {
	if f.off.Load() {
		return false, nil
	}
	return f.File.SyncTo(n)
}

// sweepPoint is a store with volume "v" whose operations are timed.
type sweepPoint struct {
	Size    uint64 `json:"size_gib"`
	Extents int    `json:"extents"`
	Depth   int    `json:"depth"`
	Volumes int    `json:"volumes"`
	s       *volume.Store
	off     atomic.Bool
	took    map[string][]time.Duration
}

func (p *sweepPoint) fill(b *testing.B) {
	b.Helper()
	ctx := context.Background()
	p.off.Store(true)
	var err error
	p.s, err = volume.Open(volume.Options{Dir: b.TempDir(), FS: lazyFS{vfs.Default, &p.off},
		MapCacheBytes: 16 << 20, PageCacheBytes: 32 << 20, CommitInterval: time.Hour})
	ok(b, err)
	b.Cleanup(func() { ok(b, p.s.Close()) })
	_, err = p.s.Create(ctx, "v", p.Size*gib)
	ok(b, err)
	d, err := p.s.Open(ctx, "v", "bench", nil)
	ok(b, err)
	buf := make([]byte, block.Size)
	buf[0] = 1
	for i := range uint64(p.Extents) {
		ok(b, d.WriteAt(ctx, buf, i*(p.Size*gib/uint64(p.Extents)/block.Size)*block.Size, false))
	}
	ok(b, d.Close())
	if i, err := p.s.Get(ctx, "v"); err != nil || i.HeadBytes != uint64(p.Extents)*block.Size {
		b.Fatalf("the volume has %d bytes, want %d extents of a block (%v)", i.HeadBytes, p.Extents, err)
	}
	for i := range p.Depth - 1 {
		_, err := p.s.Snapshot(ctx, "v", fmt.Sprintf("s%d", i))
		ok(b, err)
	}
	for i := range p.Volumes - 1 {
		_, err := p.s.Create(ctx, fmt.Sprintf("other%d", i), gib)
		ok(b, err)
	}
	ok(b, p.s.Flush(ctx))
}

// round times each operation once.
func (p *sweepPoint) round(b *testing.B) {
	b.Helper()
	ctx := context.Background()
	timed := func(op string, fn func() error) {
		start := time.Now()
		err := fn()
		p.took[op] = append(p.took[op], time.Since(start))
		ok(b, err)
	}
	timed("snapshot", func() error { _, err := p.s.Snapshot(ctx, "v", "new"); return err })
	timed("clone", func() error { _, err := p.s.Clone(ctx, "v", "new", "clone"); return err })
	timed("delete volume", func() error { _, err := p.s.Delete(ctx, "clone", false); return err })
	timed("delete snapshot", func() error { return p.s.DeleteSnapshot(ctx, "v", "new") })
}

// sweepResult is one operation over all points.
type sweepResult struct {
	Operation string  `json:"operation"`
	Synced    bool    `json:"synced"`
	MedianNs  []int64 `json:"median_ns"` // by point
	MaxByMin  float64 `json:"max_by_min"`
	Noise     float64 `json:"noise"` // the first point by the second, which is the same
}

// BenchmarkSweep times snapshot, clone and delete by turns over volumes of many
// sizes, extents and depths, and stores of many volumes; with syncs and without.
func BenchmarkSweep(b *testing.B) {
	points := []*sweepPoint{
		{Size: 1, Extents: 10, Depth: 1, Volumes: 1}, {Size: 1, Extents: 10, Depth: 1, Volumes: 1},
		{Size: 128, Extents: 10, Depth: 1, Volumes: 1}, {Size: 16 << 10, Extents: 10, Depth: 1, Volumes: 1},
		{Size: 64, Extents: 10_000, Depth: 1, Volumes: 1}, {Size: 64, Extents: 1_000_000, Depth: 1, Volumes: 1},
		{Size: 1, Extents: 10, Depth: 100, Volumes: 1}, {Size: 1, Extents: 10, Depth: 1000, Volumes: 1},
		{Size: 1, Extents: 10, Depth: 1, Volumes: 1000}, {Size: 1, Extents: 10, Depth: 1, Volumes: 100_000},
	}
	for _, p := range points {
		p.fill(b)
	}
	var results []sweepResult
	for _, synced := range []bool{true, false} {
		for _, p := range points {
			p.took = map[string][]time.Duration{}
			p.off.Store(!synced)
		}
		for range *sweepRounds {
			for _, p := range points {
				p.round(b)
			}
		}
		for _, op := range []string{"snapshot", "clone", "delete volume", "delete snapshot"} {
			results = append(results, sweepOf(points, op, synced))
		}
	}
	for i, p := range points {
		b.Logf("point %d: %5d GiB, %7d extents, depth %4d, %6d volumes", i, p.Size, p.Extents, p.Depth, p.Volumes)
	}
	for _, r := range results {
		b.Logf("%-15s synced %-5v: max/min %.2f, noise %.2f; us by point:%s", r.Operation, r.Synced, r.MaxByMin, r.Noise, micros(r.MedianNs))
	}
	if *sweepJSON != "" {
		j, err := json.MarshalIndent(map[string]any{"points": points, "results": results}, "", " ")
		ok(b, err)
		ok(b, os.WriteFile(*sweepJSON, append(j, '\n'), 0o644))
	}
}

func sweepOf(points []*sweepPoint, op string, synced bool) sweepResult {
	r := sweepResult{Operation: op, Synced: synced}
	for _, p := range points {
		slices.Sort(p.took[op])
		r.MedianNs = append(r.MedianNs, int64(p.took[op][len(p.took[op])/2]))
	}
	ratio := func(ns []int64) float64 { return float64(slices.Max(ns)) / float64(slices.Min(ns)) }
	r.MaxByMin, r.Noise = ratio(r.MedianNs), ratio(r.MedianNs[:2])
	return r
}

func micros(ns []int64) string {
	var s strings.Builder
	for _, n := range ns {
		fmt.Fprintf(&s, " %.0f", float64(n)/1000)
	}
	return s.String()
}
