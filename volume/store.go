package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
	"github.com/slackerd/slacker/segment"
	"go.uber.org/zap"
)

// Defaults of Options.
const (
	DefaultSegmentBytes  = 128 << 20
	DefaultMapCacheBytes = 128 << 20
	DefaultPageBytes     = 256 << 20
	// DefaultCommitInterval is how long a change may stay out of the map, and
	// an unflushed write out of the log's durable part, at the most.
	DefaultCommitInterval = 2 * time.Second
	// importIdle is how long an import may have no connection before it is
	// taken for abandoned.
	importIdle = 10 * time.Minute
)

// Options configure a Store. Zero values mean the defaults.
type Options struct {
	Dir string
	// FS is where the store lives; nil is the real file system.
	FS     vfs.FS
	Logger *zap.Logger
	// SegmentBytes is the size of a segment file.
	SegmentBytes int64
	// SpareSegments is how many deleted segment files are kept to be written
	// again; 0 keeps none.
	SpareSegments int
	// MapCacheBytes bounds the cache of the extent map's files, PageCacheBytes
	// that of its pages in use, with those that have changes which are not in
	// the map yet.
	MapCacheBytes, PageCacheBytes int64
	// CommitInterval bounds how long changes wait to enter the map.
	CommitInterval time.Duration
	// MustExist refuses to make a new store.
	MustExist bool
	// LogEndsBefore is what Leave of the process before returned, 0 if there was
	// none.
	LogEndsBefore uint64
	// Step, when set, is told of each part of opening that is done.
	Step func(string)
	// ReserveBytes is how much of the disk data of clients leaves free, for the
	// map and for giving space back. As much as a segment and a quarter of it is
	// occupied by a file besides, which goes when the map meets a full disk all
	// the same. 0 is none of both.
	ReserveBytes int64
	// MakeRoom, when set, is asked when a write finds no room. It returns whether
	// the write should be tried again.
	MakeRoom func(context.Context) bool
	// OnGarbage, when set, is told that there may be something to collect.
	OnGarbage func()
	// OnSealed, when set, is told that a segment is full. It must not call the
	// store.
	OnSealed func()
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

func (o *Options) setDefaults() error {
	if o.Dir == "" {
		return block.Errorf(block.Invalid, "open store: no directory was named")
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	if o.MapCacheBytes == 0 {
		o.MapCacheBytes = DefaultMapCacheBytes
	}
	if o.PageCacheBytes == 0 {
		o.PageCacheBytes = DefaultPageBytes
	}
	if o.CommitInterval == 0 {
		o.CommitInterval = DefaultCommitInterval
	}
	if o.Step == nil {
		o.Step = func(string) {}
	}
	if o.OnGarbage == nil {
		o.OnGarbage = func() {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return nil
}

// Store is an open store. Its methods may run concurrently.
type Store struct {
	o    Options
	lock io.Closer
	// meta is the file system for everything but segments: see ballast.
	meta    vfs.FS
	ballast ballast
	db      *cow.DB
	tree    *cow.Tree
	log     *segment.Log

	mu          sync.Mutex // the catalog: everything below but what says otherwise
	closed      bool
	nextID      uint64
	volumes     map[block.VolumeID]*vol
	byName      map[string]*vol
	imports     map[string]*vol
	attachments map[string]*attachment

	queue   queue
	commits sync.Mutex // one commit of changes at a time; guards replayFrom
	// replayFrom is the segment that the map's replay point is in. Older ones
	// are not needed to open the store.
	replayFrom block.SegmentID
	stop       context.CancelFunc
	done       sync.WaitGroup
	fault      atomic.Pointer[error]
	held       atomic.Bool // the disk was full: see diskFull
	short      atomic.Bool // data was refused for want of room when it was last looked at
	leaving    atomic.Bool // see Prepare
	logIfOpen  atomic.Pointer[segment.Log]
	conns      atomic.Int64
	// readsMemory and readsDisk are ReadUse.
	readsMemory, readsDisk atomic.Uint64
}

// vol is a volume in memory.
type vol struct {
	id block.VolumeID

	// gate is held for reading by every read and change, for writing to
	// exchange what they rely on: head, size, fences.
	gate sync.RWMutex
	head atomic.Pointer[cow.Layer]
	size atomic.Uint64 // bytes

	// Under Store.mu.
	rec     cow.VolumeRecord
	snaps   map[string]*snap
	devices map[*Device]struct{}
	holders map[*attachment]struct{} // of the volume and of its snapshots
	idle    time.Time                // when the last device of an import went
}

// snap is a snapshot in memory. Under Store.mu.
type snap struct {
	rec     cow.SnapshotRecord
	layer   *cow.Layer
	devices map[*Device]struct{}
}

// attachment is an attachment in memory. Under Store.mu.
type attachment struct {
	rec   cow.AttachmentRecord
	v     *vol
	slots map[uint32]*Device
}

// Open opens the store in o.Dir, making it when there is none, and replays the
// log. Another process that has it open is an error of kind Busy.
func Open(o Options) (*Store, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	if err := makeDirs(o.FS, o.Dir, o.FS.PathJoin(o.Dir, "segments"), o.FS.PathJoin(o.Dir, "map")); err != nil {
		return nil, err
	}
	s := &Store{o: o, volumes: map[block.VolumeID]*vol{}, byName: map[string]*vol{},
		imports: map[string]*vol{}, attachments: map[string]*attachment{}}
	s.queue.init()
	s.ballast.init(o.FS, o.FS.PathJoin(o.Dir, ballastName), o.ReserveBytes, o.SegmentBytes, o.Logger)
	s.meta = vfs.OnDiskFull(o.FS, s.diskFull)
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.closeFiles())
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.done.Add(1)
	go s.committer(ctx)
	return s, nil
}

// makeDirs makes directories, each within the one before, that a crash cannot
// take away again.
func makeDirs(fs vfs.FS, dirs ...string) error {
	for _, dir := range dirs {
		err := fs.MkdirAll(dir, 0o700)
		if err == nil {
			err = syncDir(fs, fs.PathDir(dir))
		}
		if err != nil {
			kind := block.IO
			if errors.Is(err, os.ErrPermission) {
				kind = block.Permission
			}
			return block.Errorf(kind, "open store: make %s: %w", dir, err)
		}
	}
	return nil
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (s *Store) open() error {
	if err := s.takeLock(); err != nil {
		return err
	}
	// Where there are segments the map is not new, even if it looks so.
	segments, err := s.o.FS.List(s.o.FS.PathJoin(s.o.Dir, "segments"))
	if err != nil {
		return block.Errorf(block.IO, "open store: list %s: %w", s.o.Dir, err)
	}
	s.db, err = cow.Open(cow.Options{FS: s.meta, Dir: s.o.FS.PathJoin(s.o.Dir, "map"), JournalDir: s.o.FS.PathJoin(s.o.Dir, "catalog"), CacheBytes: s.o.MapCacheBytes,
		MustExist: s.o.MustExist || len(segments) > 0, Logger: s.o.Logger, OnFault: s.fail})
	if block.Is(err, block.NotFound) && len(segments) > 0 {
		return block.Errorf(block.NotFound, "%w: the store has segments and has lost its extent map: slackerd salvage makes it anew from them", err)
	}
	if err != nil {
		return err
	}
	s.o.Step("map opened")
	catalog, err := s.db.LoadCatalog(context.Background())
	if err != nil {
		return err
	}
	if s.tree, err = cow.NewTree(s.db, catalog, s.o.PageCacheBytes); err != nil {
		return err
	}
	s.tree.FlattenWhile(func() bool { return s.fault.Load() == nil && !s.held.Load() })
	s.queue.bound(s.tree.CachePages())
	if err := s.link(catalog); err != nil {
		return err
	}
	s.o.Step("catalog read")
	s.log, err = segment.Open(segment.Options{FS: s.o.FS, Dir: s.o.FS.PathJoin(s.o.Dir, "segments"), StoreID: s.db.StoreID(),
		SegmentBytes: s.o.SegmentBytes, Reserve: s.o.ReserveBytes, Spares: s.o.SpareSegments, EndsBefore: segment.LSN(s.o.LogEndsBefore), OnSealed: s.o.OnSealed, Logger: s.o.Logger, OnFault: s.fail})
	if err != nil {
		return err
	}
	s.logIfOpen.Store(s.log)
	s.o.Step("log opened")
	err = s.replay(context.Background(), catalog.Replay)
	s.o.Step("log replayed")
	s.checkRoom()
	return err
}

// takeLock makes sure that no other process has the store open. The holder's
// process number is beside the lock, for the message.
func (s *Store) takeLock() error {
	name, pidName := s.meta.PathJoin(s.o.Dir, "LOCK"), s.o.FS.PathJoin(s.o.Dir, "PID")
	lock, err := s.meta.Lock(name)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return block.Errorf(block.Permission, "open store: lock %s: %w", name, err)
		}
		holder := "another process"
		if pid := strings.TrimSpace(readSmall(s.meta, pidName)); pid != "" {
			holder = "process " + pid
		}
		return block.Errorf(block.Busy, "open store: %s is in use by %s", s.o.Dir, holder)
	}
	s.lock = lock
	if err := s.writePID(pidName); err != nil { // only a message is the poorer for it
		s.o.Logger.Warn("the process number is not written", zap.Error(err))
	}
	return nil
}

func (s *Store) writePID(name string) error {
	f, err := s.meta.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	return errors.Join(err, f.Close())
}

func readSmall(fs vfs.FS, name string) string {
	f, err := fs.Open(name)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		return ""
	}
	return string(b)
}

// link builds the catalog in memory.
func (s *Store) link(c *cow.Catalog) error {
	s.nextID = c.NextID
	for _, r := range c.Volumes {
		head := s.tree.Layer(r.Head)
		if head == nil || head.ID != r.Head {
			return block.Errorf(block.Corrupt, "catalog: volume %d (%s) has head layer %d, which does not exist", r.ID, r.Name, r.Head)
		}
		s.tree.Name(head, 1)
		s.addVolume(r, head)
	}
	for _, r := range c.Snapshots {
		v, layer := s.volumes[r.Volume], s.tree.Layer(r.Layer)
		if v == nil || layer == nil || layer.ID != r.Layer {
			return block.Errorf(block.Corrupt, "catalog: snapshot %s of volume %d has layer %d, one of which does not exist", r.Name, r.Volume, r.Layer)
		}
		s.tree.Name(layer, 1)
		v.snaps[r.Name] = &snap{rec: r, layer: layer, devices: map[*Device]struct{}{}}
	}
	for _, r := range c.Attachments {
		v := s.volumes[r.Volume]
		if v == nil {
			return block.Errorf(block.Corrupt, "catalog: attachment %s is of volume %d, which does not exist", r.ID, r.Volume)
		}
		s.addAttachment(r, v)
	}
	return nil
}

func (s *Store) addVolume(r cow.VolumeRecord, head *cow.Layer) *vol {
	v := &vol{id: r.ID, rec: r, snaps: map[string]*snap{}, devices: map[*Device]struct{}{},
		holders: map[*attachment]struct{}{}, idle: s.o.Now()}
	v.head.Store(head)
	v.size.Store(r.SizeBytes)
	s.volumes[r.ID] = v
	if r.Import != "" {
		s.imports[r.Import] = v
	} else {
		s.byName[r.Name] = v
	}
	return v
}

// dropVolume undoes addVolume.
func (s *Store) dropVolume(v *vol) {
	delete(s.volumes, v.id)
	if v.rec.Import != "" {
		delete(s.imports, v.rec.Import)
	} else {
		delete(s.byName, v.rec.Name)
	}
}

// fail fences the store: nothing is acknowledged from now on (V6).
func (s *Store) fail(err error) {
	if s.fault.CompareAndSwap(nil, &err) {
		s.o.Logger.Error("the store takes no more writes: restart it after mending the cause", zap.Error(err))
	}
}

// Fault returns why the store is fenced, or nil.
func (s *Store) Fault() error {
	if p := s.fault.Load(); p != nil {
		return block.Errorf(block.IO, "the store is fenced after a failure: %w", *p)
	}
	return nil
}

// Tree and Log are for the garbage collector and the checker.
func (s *Store) Tree() *cow.Tree { return s.tree }

// Log is the store's log.
func (s *Store) Log() *segment.Log { return s.log }

// Close commits what was written, and closes the store. Devices must be closed.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.done.Wait()
	var err error
	if s.Fault() == nil {
		s.tree.Close() // it writes no more pages
		if err = s.Flush(context.Background()); err == nil {
			err = s.db.Settle()
		}
	}
	return errors.Join(err, s.closeFiles())
}

func (s *Store) closeFiles() error {
	var errs []error
	if s.tree != nil {
		s.tree.Close()
	}
	if s.log != nil {
		errs = append(errs, s.log.Close())
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}
