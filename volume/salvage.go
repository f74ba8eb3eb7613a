package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
	"github.com/slackerd/slacker/segment"
)

// SalvageReport says what a salvage found.
type SalvageReport struct {
	// Journal is the file that the catalog is from; "" when there is none, and the
	// names and the order of the layers are lost.
	Journal                    string
	Volumes, Snapshots, Layers int
	Segments                   int
	Records, Blocks            uint64
	// Strangers is how many blocks there are of layers that the catalog does not
	// know: deleted, or newer than its journal.
	Strangers map[block.LayerID]uint64
	// Problems are what could not be read.
	Problems []string
}

// Salvage makes a new map (V9) for a store that has lost it, from the segments and the
// journal of the catalog. There must be no map. With dryRun it only looks. Nothing
// but the map is changed, and that only at the end.
func Salvage(ctx context.Context, o Options, dryRun bool, progress func(done, total uint64, unit string)) (report *SalvageReport, err error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(uint64, uint64, string) {}
	}
	v := &salvage{o: o, dry: dryRun, progress: progress, tops: map[block.LayerID]block.Index{},
		report: &SalvageReport{Strangers: map[block.LayerID]uint64{}}}
	lock, err := o.FS.Lock(v.path("LOCK"))
	if err != nil {
		return nil, block.Errorf(block.Busy, "salvage %s: it is in use, or not a store: %w", o.Dir, err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := v.run(ctx); err != nil {
		return nil, block.Wrap(block.IO, err, "salvage "+o.Dir)
	}
	return v.report, nil
}

type salvage struct {
	o        Options
	dry      bool
	progress func(done, total uint64, unit string)
	report   *SalvageReport
	journal  *cow.JournalState
	log      *segment.Log
	build    *cow.Rebuild
	tops     map[block.LayerID]block.Index // how far the layers reach, without a journal
	maxLayer block.LayerID
}

func (v *salvage) path(name string) string { return v.o.FS.PathJoin(v.o.Dir, name) }

func (v *salvage) run(ctx context.Context) (err error) {
	names, err := v.o.FS.List(v.path("map"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return block.Errorf(block.IO, "list %s: %w", v.path("map"), err)
	}
	// An attempt to open the store leaves a lock file.
	if names = slices.DeleteFunc(names, func(n string) bool { return n == "LOCK" }); len(names) > 0 {
		return block.Errorf(block.Exists, "there is a map with %d files: move %s away if it is of no use", len(names), v.path("map"))
	}
	id, n, err := segment.Identify(v.o.FS, v.path("segments"))
	if err != nil {
		return err
	}
	if v.journal, err = cow.ReadJournal(v.o.FS, v.path("catalog")); err != nil && !block.Is(err, block.NotFound) {
		return err
	}
	switch {
	case v.journal == nil && n == 0:
		return block.Errorf(block.NotFound, "no segments and no journal of the catalog: there is nothing to salvage")
	case v.journal == nil:
		v.problem("no journal of the catalog: each layer becomes a volume with what was written to it alone")
	case n > 0 && v.journal.StoreID != id:
		return block.Errorf(block.Corrupt, "the journal is of store %x, the segments are of %x", v.journal.StoreID, id)
	default:
		v.report.Journal, id = v.journal.File, v.journal.StoreID
		if v.journal.Torn != "" {
			v.problem("%s ends with something that is no part of it, at %s: the catalog is as it was before that; where snapshots were deleted since, "+
				"what was collected reads as zeroes", v.journal.File, v.journal.Torn)
		}
	}
	if v.log, err = segment.Open(segment.Options{FS: v.o.FS, Dir: v.path("segments"), StoreID: id, ReadOnly: true, Logger: v.o.Logger}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.log.Close()) }()
	return v.rebuild(ctx, id)
}

func (v *salvage) problem(format string, args ...any) {
	v.report.Problems = append(v.report.Problems, fmt.Sprintf(format, args...))
}

// rebuild makes the map in a directory of its own and moves it to its place.
func (v *salvage) rebuild(ctx context.Context, id [16]byte) (err error) {
	fs, dir := v.o.FS, v.path("map.salvage")
	if v.dry {
		fs, dir = vfs.NewMem(), "map"
	}
	if err := fs.RemoveAll(dir); err != nil {
		return block.Errorf(block.IO, "remove %s: %w", dir, err)
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return block.Errorf(block.IO, "make %s: %w", dir, err)
	}
	var records map[string][]byte
	if v.journal != nil {
		records = v.journal.Records
	}
	v.build, err = cow.NewRebuild(cow.Options{FS: fs, Dir: dir, CacheBytes: v.o.MapCacheBytes, StoreID: &id, Logger: zap.NewNop()}, records)
	if err != nil {
		return err
	}
	end, next, err := v.records(ctx)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return errors.Join(err, v.build.Abort(), fs.RemoveAll(dir))
	}
	v.volumesOfLayers()
	v.count(records)
	if err := v.build.Finish(ctx, cow.ReplayPoint{Segment: end.Segment, Block: end.Block, NextLSN: uint64(next)}, uint64(v.maxLayer)+1+uint64(len(v.tops))); err != nil {
		return err
	}
	if v.dry {
		return nil
	}
	if err := fs.RemoveAll(v.path("map")); err != nil { // it is empty, or not there
		return block.Errorf(block.IO, "remove %s: %w", v.path("map"), err)
	}
	if err := errors.Join(syncDir(fs, dir), fs.Rename(dir, v.path("map")), syncDir(fs, v.o.Dir)); err != nil {
		return block.Errorf(block.IO, "move the new map to its place: %w", err)
	}
	return nil
}

// records takes over the log: what was durable long ago as it is, the last part
// as when a store is opened.
func (v *salvage) records(ctx context.Context) (end segment.Pos, next segment.LSN, err error) {
	from, first := v.log.LastPart()
	ids := v.log.Begun()
	v.report.Segments = len(ids)
	last, _ := slices.BinarySearch(ids, from.Segment)
	if err := v.scan(ctx, ids[:last], len(ids)); err != nil {
		return end, 0, err
	}
	before, strangers := *v.report, maps.Clone(v.report.Strangers)
	end, next, err = v.log.Replay(ctx, from, first, v.take)
	if block.Is(err, block.Corrupt) {
		v.report.Records, v.report.Blocks, v.report.Strangers = before.Records, before.Blocks, strangers
		v.problem("%v", err)
		// Some of it has been taken already; taking it again in order changes nothing.
		if err = v.scan(ctx, ids[last:], len(ids)); err == nil {
			end, next, err = v.log.PastAll()
		}
	}
	v.progress(uint64(len(ids)), uint64(len(ids)), "segments")
	return end, next, err
}

// scan takes over what can be read of segments; total is for the progress.
func (v *salvage) scan(ctx context.Context, ids []block.SegmentID, total int) error {
	for i, id := range ids {
		v.progress(uint64(i), uint64(total), "segments")
		var fault error
		err := v.log.Scan(ctx, id, func(r segment.Record) error { fault = v.take(r); return fault })
		if fault != nil || ctx.Err() != nil {
			return err
		}
		if err != nil {
			v.problem("%s: %v; what is in it before is taken, and if something follows, it is lost", segment.FileName(id), err)
		}
	}
	return nil
}

// take takes over one record.
func (v *salvage) take(r segment.Record) error {
	v.maxLayer = max(v.maxLayer, r.Layer)
	if v.journal == nil {
		v.tops[r.Layer] = max(v.tops[r.Layer], r.First+block.Index(r.Count))
	} else if !v.build.Has(r.Layer) {
		if r.Kind != segment.Zero {
			v.report.Strangers[r.Layer] += uint64(r.Count)
		}
		return nil
	}
	v.report.Records++
	run := cow.Run{First: r.First, Count: r.Count}
	if r.Kind != segment.Zero {
		run.Addr, run.Sums = r.Addr, r.Sums
		v.report.Blocks += uint64(r.Count)
	}
	return v.build.Add(r.Layer, run)
}

// volumesOfLayers makes a volume of each layer when the catalog is lost.
func (v *salvage) volumesOfLayers() {
	for i, id := range slices.Sorted(maps.Keys(v.tops)) {
		v.build.AddVolume(&cow.VolumeRecord{ID: block.VolumeID(uint64(v.maxLayer) + 1 + uint64(i)), Name: fmt.Sprintf("salvaged/layer-%d", id),
			SizeBytes: uint64(v.tops[id]) * block.Size, Created: v.o.Now(), Head: id})
		v.report.Volumes++
		v.report.Layers++
	}
}

func (v *salvage) count(records map[string][]byte) {
	for k := range records {
		switch k[0] {
		case 'V':
			v.report.Volumes++
		case 'S':
			v.report.Snapshots++
		case 'L':
			v.report.Layers++
		}
	}
}
