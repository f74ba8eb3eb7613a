package cow

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"go.uber.org/zap"
)

// FormatVersion is the version of the store's formats that this code writes.
const FormatVersion = 3

const (
	// oldestFormat is the oldest version that is read.
	oldestFormat = 1
	// flatFormat is the first that has flat pages.
	flatFormat = 3
)

// pebbleFormat is pinned: a newer Pebble must not change the disk format on
// its own.
const pebbleFormat = pebble.FormatTableFormatV6

// Options configure a DB.
type Options struct {
	FS  vfs.FS
	Dir string
	// StoreID is given to a new store; nil makes one.
	StoreID *[16]byte
	// JournalDir is where the journal of the catalog is; "" keeps none.
	JournalDir string
	// CacheBytes bounds Pebble's block cache.
	CacheBytes int64
	// MustExist refuses to make a new store, and one that has lost its format
	// record: that is not new.
	MustExist bool
	ReadOnly  bool
	Logger    *zap.Logger
	// OnFault is called, once, when Pebble meets an error it cannot go on after.
	OnFault func(error)
}

// DB is the stored form of the extent map and of the catalog. Its methods may
// run concurrently.
type DB struct {
	pdb     *pebble.DB
	view    *pebble.Snapshot // what is read instead; see snapshot
	storeID [16]byte
	format  atomic.Uint32
	noWrite bool
	faults  *faultLogger
	journal *journal      // nil: none is kept
	gets    atomic.Uint64 // lookups of pages so far
	replay  atomic.Uint64 // segment of the committed replay point, or an older one
}

// snapshot returns a DB that reads what the store holds now, whatever is written
// later. Its view must be closed.
func (d *DB) snapshot() *DB { return &DB{pdb: d.pdb, view: d.pdb.NewSnapshot()} }

// Open opens the store in o.Dir, making it when it is empty.
func Open(o Options) (*DB, error) {
	faults := &faultLogger{log: o.Logger, onFault: o.OnFault, failing: make(chan error, 1)}
	cache := pebble.NewCache(o.CacheBytes)
	defer cache.Unref()
	po := &pebble.Options{
		FS:                          orderedFS{o.FS},
		Cache:                       cache,
		Merger:                      newMerger(),
		FormatMajorVersion:          pebbleFormat,
		Logger:                      faults,
		ReadOnly:                    o.ReadOnly,
		ErrorIfNotExists:            o.MustExist || o.ReadOnly,
		MemTableSize:                16 << 20,
		L0CompactionThreshold:       2,
		MemTableStopWritesThreshold: 4,
	}
	for i := range po.Levels {
		po.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	po.EventListener = &pebble.EventListener{BackgroundError: faults.background, DataCorruption: faults.corruption}
	pdb, err := pebble.Open(o.Dir, po)
	if err != nil {
		kind := block.IO
		if errors.Is(err, pebble.ErrDBDoesNotExist) || errors.Is(err, os.ErrNotExist) {
			kind = block.NotFound
		} else if errors.Is(err, pebble.ErrCorruption) {
			kind = block.Corrupt
		}
		return nil, block.Errorf(kind, "open extent map in %s: %w", o.Dir, err)
	}
	d := &DB{pdb: pdb, faults: faults, noWrite: o.ReadOnly}
	if err := d.loadFormat(!o.ReadOnly && !o.MustExist, o.StoreID); err != nil {
		return nil, errors.Join(err, pdb.Close())
	}
	if o.JournalDir != "" && !o.ReadOnly {
		if err := d.openJournal(o.FS, o.JournalDir, o.Logger); err != nil {
			return nil, errors.Join(err, pdb.Close())
		}
	}
	return d, nil
}

// loadFormat reads the format record, or writes it into a new store if it may
// be new.
func (d *DB) loadFormat(mayBeNew bool, storeID *[16]byte) error {
	v, err := d.get([]byte{keyFormat})
	if err != nil {
		return err
	}
	if v == nil && mayBeNew {
		v = binary.LittleEndian.AppendUint32(nil, FormatVersion)
		id := make([]byte, 16)
		if storeID != nil {
			copy(id, storeID[:])
		} else if _, err := rand.Read(id); err != nil {
			return block.Errorf(block.IO, "make a store id: %w", err)
		}
		v = append(v, id...)
		if err := d.pdb.Set([]byte{keyFormat}, v, pebble.Sync); err != nil {
			return block.Errorf(block.IO, "write the format record: %w", err)
		}
	}
	if len(v) != 20 {
		return block.Errorf(block.Corrupt, "the format record has %d bytes, want 20", len(v))
	}
	format := binary.LittleEndian.Uint32(v)
	if format < oldestFormat || format > FormatVersion {
		return block.Errorf(block.Unsupported, "the store has format version %d; this program knows versions %d to %d", format, oldestFormat, FormatVersion)
	}
	d.format.Store(format)
	copy(d.storeID[:], v[4:])
	return nil
}

// StoreID is made when the store is, and marks its segments.
func (d *DB) StoreID() [16]byte { return d.storeID }

// Format is the format version that the store has.
func (d *DB) Format() uint32 { return d.format.Load() }

// takesFlats reports whether flat pages may be stored.
func (d *DB) takesFlats() bool { return !d.noWrite && d.format.Load() >= flatFormat }

// Settle moves everything committed to tables. It precedes a clean Close: damage
// at the end of Pebble's log cannot be told from a write that a crash cut short,
// damage of a table can. Pebble tries a failing flush again and again; the first
// failure ends the wait for it, and everything committed is still in the log.
func (d *DB) Settle() error {
	select {
	case <-d.faults.failing: // of earlier
	default:
	}
	flushed, err := d.pdb.AsyncFlush()
	if err == nil {
		select {
		case <-flushed:
		case err = <-d.faults.failing:
		}
	}
	return block.Wrap(block.IO, err, "settle extent map")
}

// Compacting reports whether tables are being merged.
func (d *DB) Compacting() bool { return d.pdb.Metrics().Compact.NumInProgress > 0 }

// AwaitCompactions waits until no tables are being merged, or ctx ends.
func (d *DB) AwaitCompactions(ctx context.Context) error {
	const often = 2 * time.Millisecond // Pebble tells the end of a compaction before it counts it
	tick := time.NewTicker(often)
	defer tick.Stop()
	for d.Compacting() {
		select {
		case <-ctx.Done():
			return block.Wrap(block.Unavailable, ctx.Err(), "wait for compactions of the extent map")
		case <-tick.C:
		}
	}
	return nil
}

// Close closes the store. What was committed without sync may be lost by a
// crash after it, as before.
func (d *DB) Close() error {
	if err := errors.Join(d.closeJournal(), d.pdb.Close()); err != nil {
		return block.Errorf(block.IO, "close extent map: %w", err)
	}
	return nil
}

func (d *DB) reader() pebble.Reader {
	if d.view != nil {
		return d.view
	}
	return d.pdb
}

// get returns a copy of a value, or nil when there is none.
func (d *DB) get(key []byte) ([]byte, error) {
	v, closer, err := d.reader().Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, readError(err)
	}
	v = append([]byte(nil), v...)
	if err := closer.Close(); err != nil {
		return nil, readError(err)
	}
	return v, nil
}

// loadPage overlays page n of map m on p and reports whether there was one.
func (d *DB) loadPage(m MapID, n uint32, p *page) (bool, error) {
	d.gets.Add(1)
	key := pageKey(m, n)
	v, closer, err := d.reader().Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, readError(err)
	}
	err = overlayPage(p, key, v)
	if cerr := closer.Close(); err == nil && cerr != nil {
		err = readError(cerr)
	}
	return true, err
}

// Scrub returns what Tx.PutScrub kept, or nil.
func (d *DB) Scrub() ([]byte, error) { return d.get([]byte{keyScrub}) }

func readError(err error) error {
	var e *block.Error
	if errors.As(err, &e) {
		return err
	}
	if errors.Is(err, pebble.ErrCorruption) {
		return block.Errorf(block.Corrupt, "read extent map: %w", err)
	}
	return block.Errorf(block.IO, "read extent map: %w", err)
}

// scan calls fn for every key with the prefix, in order. Key and value are
// valid during the call.
func (d *DB) scan(ctx context.Context, prefix []byte, fn func(k, v []byte) error) (err error) {
	it, err := d.reader().NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: prefixEnd(prefix)})
	if err != nil {
		return readError(err)
	}
	defer func() {
		if cerr := it.Close(); err == nil && cerr != nil {
			err = readError(cerr)
		}
	}()
	for ok := it.First(); ok; ok = it.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return readError(err)
		}
		if err := fn(it.Key(), v); err != nil {
			return err
		}
	}
	return nil
}

// LoadCatalog reads everything but the pages.
func (d *DB) LoadCatalog(ctx context.Context) (*Catalog, error) {
	c := &Catalog{NextID: 1, Live: map[block.SegmentID]int64{}, Counts: map[MapID]int64{}}
	err := errors.Join(
		scanRecords(ctx, d, keyVolume, &c.Volumes),
		scanRecords(ctx, d, keySnapshot, &c.Snapshots),
		scanRecords(ctx, d, keyLayer, &c.Layers),
		scanRecords(ctx, d, keyAttachment, &c.Attachments),
		d.scanCounts(ctx, keySegment, func(id uint64, n int64) { c.Live[block.SegmentID(id)] = n }),
		d.scanCounts(ctx, keyMapCount, func(id uint64, n int64) { c.Counts[MapID(id)] = n }),
	)
	if err != nil {
		return nil, err
	}
	if v, err := d.get([]byte{keyNextID}); err != nil {
		return nil, err
	} else if len(v) == 8 {
		c.NextID = binary.LittleEndian.Uint64(v)
	} else if v != nil {
		return nil, block.Errorf(block.Corrupt, "the next-id record has %d bytes, want 8", len(v))
	}
	if err := d.loadReplay(c); err != nil {
		return nil, err
	}
	return c, d.loadForwards(ctx, c)
}

func (d *DB) loadReplay(c *Catalog) error {
	v, err := d.get([]byte{keyReplay})
	if err != nil || v == nil {
		return err
	}
	if len(v) != 20 {
		return block.Errorf(block.Corrupt, "the replay record has %d bytes, want 20", len(v))
	}
	c.Replay = ReplayPoint{block.SegmentID(binary.LittleEndian.Uint64(v)), binary.LittleEndian.Uint32(v[8:]), binary.LittleEndian.Uint64(v[12:])}
	d.replay.Store(uint64(c.Replay.Segment))
	return nil
}

func scanRecords[T any](ctx context.Context, d *DB, prefix byte, out *[]T) error {
	return d.scan(ctx, []byte{prefix}, func(k, v []byte) error {
		var r T
		if err := json.Unmarshal(v, &r); err != nil {
			return block.Errorf(block.Corrupt, "catalog: record %q: %w", k, err)
		}
		*out = append(*out, r)
		return nil
	})
}

func (d *DB) scanCounts(ctx context.Context, prefix byte, fn func(id uint64, n int64)) error {
	return d.scan(ctx, []byte{prefix}, func(k, v []byte) error {
		if len(k) != 9 || len(v) != 8 {
			return block.Errorf(block.Corrupt, "catalog: counter %q has %d bytes, want 8", k, len(v))
		}
		fn(binary.BigEndian.Uint64(k[1:]), int64(binary.LittleEndian.Uint64(v)))
		return nil
	})
}

// faultLogger passes Pebble's log on. Pebble calls Fatalf where it cannot go
// on, such as after a failed write of its own log, with its locks held, and
// expects it not to return. So the process ends: nothing is acknowledged after
// that, and opening the store anew finds what was durable.
type faultLogger struct {
	log     *zap.Logger
	onFault func(error)
	once    sync.Once
	failing chan error // holds the first of the background errors not looked at
}

func (l *faultLogger) fault(err error) {
	l.once.Do(func() {
		if l.onFault != nil {
			l.onFault(err)
		}
	})
}

func (l *faultLogger) background(err error) {
	l.log.Warn("extent map: background error", zap.Error(err))
	select {
	case l.failing <- err:
	default:
	}
}

// corruption passes on what Pebble found damaged. The read that met it returns
// an error as well; without this, Pebble would end the process.
func (l *faultLogger) corruption(i pebble.DataCorruptionInfo) {
	l.log.Error("extent map: damaged table", zap.String("path", i.Path), zap.Error(i.Details))
}

func (l *faultLogger) Infof(format string, args ...any) { l.log.Debug(fmt.Sprintf(format, args...)) }

func (l *faultLogger) Errorf(format string, args ...any) { l.log.Error(fmt.Sprintf(format, args...)) }

func (l *faultLogger) Fatalf(format string, args ...any) {
	err := block.Errorf(block.IO, "extent map: "+format, args...)
	l.log.Error("extent map cannot go on", zap.Error(err))
	l.fault(err)
	panic(err)
}
