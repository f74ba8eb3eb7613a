package segment

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
)

// DefaultSegmentBytes is the length of a segment file unless Options say else.
const DefaultSegmentBytes = 128 << 20

// maxUnwritten bounds the chunks that are in memory and not yet written to
// their file: about 32 MiB. Append waits when it is reached.
const maxUnwritten = 32

// writeBehind is how many closed chunks wait for who appended them to settle or
// sync, before they are written for him.
const writeBehind = 4

// ErrGone is what ReadAt and ReadNow return, wrapped, for a segment that does
// not exist any more: the cleaner moved its data, so the map has a new address.
var ErrGone = errors.New("segment is gone")

// Options say where a log is and how it behaves.
type Options struct {
	FS      vfs.FS
	Dir     string // must exist
	StoreID [16]byte
	// SegmentBytes is the length of new segments, a multiple of block.Size;
	// 0 means DefaultSegmentBytes. Segments of other lengths stay readable.
	SegmentBytes int64
	// ReadOnly refuses everything that would write.
	ReadOnly bool
	Logger   *zap.Logger // nil: none
	// Spares is how many deleted segments are kept to be written again: their
	// space is initialized already, and their pages may still be in memory.
	Spares int
	// Reserve is how many bytes of the disk data of clients leaves free; 0 means
	// all may be used.
	Reserve int64
	// EndsBefore is what Leave of the process before returned, 0 if there was
	// none: the number of the first record that it did not write (S11).
	EndsBefore LSN
	// OnSealed, when set, is called whenever a segment is full, under the log's
	// lock: it must be quick and must not call the log.
	OnSealed func()
	// OnFault is called once, from the goroutine that met it, without locks
	// held, when the log fences itself.
	OnFault func(error)

	zeroAhead zeroMode // for tests
}

func (o *Options) check() error {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.FS == nil || o.Dir == "" {
		return block.Errorf(block.Invalid, "open log: want a file system and a directory, got %v and %q", o.FS, o.Dir)
	}
	if o.SegmentBytes < MinSegmentBytes || o.SegmentBytes > MaxSegmentBytes || o.SegmentBytes%block.Size != 0 {
		return block.Errorf(block.Invalid, "open log in %s: segment size %d bytes: want a multiple of %d from %d to %d",
			o.Dir, o.SegmentBytes, block.Size, MinSegmentBytes, int64(MaxSegmentBytes))
	}
	if o.Reserve < 0 {
		return block.Errorf(block.Invalid, "open log in %s: a reserve of %d bytes: want 0 or more", o.Dir, o.Reserve)
	}
	return nil
}

// Log is the log of a store. All methods may be called concurrently, except
// that Replay comes first, once.
type Log struct {
	o         Options
	segBlocks uint32
	segs      sync.Map // block.SegmentID -> *segFile
	views     views
	began     time.Time // what times in views count from

	// writeMu orders writes to files: whoever holds it writes the oldest
	// pending chunk. It is taken before mu.
	writeMu sync.Mutex
	header  headerBlock // under writeMu

	mu   sync.Mutex
	cond sync.Cond // on mu: a chunk was written, a segment prepared, a fault, close

	replayed, closed bool
	maxID            block.SegmentID // the largest id seen or made

	// tail is the segment where the log ends, at block cursor; it takes chunks
	// unless cut is set: then recovery ended the log there.
	tail    *segFile
	cut     bool
	cursor  uint32
	prevCRC uint32
	next    LSN

	open      *chunk   // takes records; nil when none was appended since the last close
	pending   []*chunk // closed, not written yet, oldest first
	closedSeq uint64   // chunks closed
	free      []*chunk // buffers to reuse
	nBuffers  int      // buffers in open and pending

	dirty      []*segFile // written to since their last fdatasync, oldest first
	round      *syncRound // running, or nil
	behind     uint32     // payload blocks appended since it began
	flushers   int        // callers of Sync that wait
	durable    LSN
	durablePos Pos
	settled    LSN // every record up to here is in a file

	settlers, syncers company

	ahead zeroAhead

	prepared  *segFile // next segment: created, allocated, nothing in it
	preparing bool
	spares    []string // files of deleted segments, to be used again
	full      bool     // the last attempt to prepare one for data failed
	short     bool     // less than Options.Reserve is free
	held      bool     // see Hold
	deleted   atomic.Uint64

	fault   atomic.Pointer[error]
	wakeW   chan struct{}
	wakeP   chan struct{}
	wakeZ   chan struct{}
	quit    chan struct{}
	workers sync.WaitGroup
}

// Open lists the segments in o.Dir and validates their headers. It reads no
// data and changes nothing. The caller replays next.
func Open(o Options) (*Log, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	l := &Log{
		o: o, began: time.Now(), segBlocks: uint32(o.SegmentBytes / block.Size), next: 1,
		wakeW: make(chan struct{}, 1), wakeP: make(chan struct{}, 1), wakeZ: make(chan struct{}, 1), quit: make(chan struct{}),
	}
	l.cond.L = &l.mu
	if err := l.list(); err != nil {
		return nil, err
	}
	return l, nil
}

// Durable returns the LSN up to which every record is durable.
func (l *Log) Durable() LSN {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}

// DurablePos returns the position right after the durable prefix, always a
// chunk boundary, and the LSN of the last record before it: a replay from there
// sees exactly the records with greater numbers.
func (l *Log) DurablePos() (Pos, LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durablePos, l.durable
}

// Info describes a segment.
type Info struct {
	ID    block.SegmentID
	Bytes int64 // allocated on disk
	// Active segments take records, or are where the log ends: not to be deleted.
	Active bool
	// PayloadBlocks is the number of data blocks, live or dead.
	PayloadBlocks uint32
	Created       time.Time
}

// Segments lists the segments in order of age.
func (l *Log) Segments() []Info {
	var infos []Info
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segs.Range(func(_, v any) bool {
		s := v.(*segFile)
		if s != l.prepared && s.valid {
			infos = append(infos, Info{ID: s.id, Bytes: s.bytes, Active: s == l.tail, PayloadBlocks: s.payload.Load(), Created: s.header.created})
		}
		return true
	})
	slices.SortFunc(infos, func(a, b Info) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return infos
}

// DiskBytes returns what all segment files occupy, the prepared one included,
// spares not.
func (l *Log) DiskBytes() int64 {
	var sum int64
	l.segs.Range(func(_, v any) bool { sum += v.(*segFile).bytes; return true })
	return sum
}

// Fault returns the error that fenced the log, or nil.
func (l *Log) Fault() error {
	if p := l.fault.Load(); p != nil {
		return *p
	}
	return nil
}

// fail fences the log for ever: what the file system holds after a failed
// write or sync is unknown, and asking again may be answered with a lie (S6).
func (l *Log) fail(err error, what string) error {
	if e := (*block.Error)(nil); !errors.As(err, &e) || e.Kind != block.IO {
		err = block.Errorf(block.IO, "%s: %w; the log takes no more writes", what, err)
	}
	if !l.fault.CompareAndSwap(nil, &err) {
		return l.Fault()
	}
	l.o.Logger.Error("log fenced", zap.Error(err))
	l.mu.Lock()
	l.cond.Broadcast()
	l.mu.Unlock()
	if l.o.OnFault != nil {
		l.o.OnFault(err)
	}
	return err
}

// usable says why the log takes no records. Called with mu held.
func (l *Log) usable() error {
	switch {
	case l.o.ReadOnly:
		return block.Errorf(block.ReadOnly, "log in %s is open read-only", l.o.Dir)
	case l.Fault() != nil:
		return l.Fault()
	case l.closed:
		return block.Errorf(block.Unavailable, "log in %s is closed", l.o.Dir)
	case !l.replayed:
		return block.Errorf(block.Internal, "log in %s: append before replay", l.o.Dir)
	}
	return nil
}

// Close makes everything durable and closes the files. It returns the fault
// of a fenced log. Reads are refused as Unavailable from then on.
func (l *Log) Close() error {
	var err error
	l.mu.Lock()
	usable := l.usable() == nil
	if !usable {
		err = l.Fault()
	} else {
		err = l.sync(context.Background(), true)
	}
	if l.closed {
		l.mu.Unlock()
		return err
	}
	l.closed = true
	l.cond.Broadcast()
	l.mu.Unlock()
	close(l.quit)
	l.workers.Wait()
	if err == nil {
		err = l.Fault() // met by a worker on its way out
	}
	if p := l.prepared; p != nil {
		l.segs.Delete(p.id)
		_, rmErr := p.remove(l, "")
		err = errors.Join(err, rmErr)
	}
	if usable {
		err = errors.Join(err, l.dropSpares())
	}
	l.segs.Range(func(_, v any) bool {
		err = errors.Join(err, v.(*segFile).close(&l.views))
		return true
	})
	return err
}
