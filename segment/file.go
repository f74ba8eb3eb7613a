package segment

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
)

const (
	segmentSuffix = ".seg"
	// writeCategory is how the log's writes are counted by a vfs that counts.
	writeCategory vfs.DiskWriteCategory = "slacker-segment"
)

// FileName is the name of the file of a segment.
func FileName(id block.SegmentID) string { return fmt.Sprintf("%016x%s", uint64(id), segmentSuffix) }

// parseSegmentName returns the id in a file name, and whether it is one.
func parseSegmentName(name string) (block.SegmentID, bool) {
	hex, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(hex) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(hex, 16, 64)
	id := block.SegmentID(n)
	return id, err == nil && id > 0 && id <= block.MaxSegmentID && FileName(id) == name
}

// segFile is a segment file, opened when first used.
type segFile struct {
	id     block.SegmentID
	path   string
	header segmentHeader // valid when valid is set
	valid  bool
	blank  bool // block 0 was never written, or not wholly
	// recycled: the file was another segment's. Nothing in it needs zeros, and
	// what it holds beyond the written part does not validate.
	recycled bool
	bytes    int64
	crc      uint32        // checksum of block 0
	written  atomic.Uint32 // blocks that can be read from the file
	end      atomic.Uint32 // where its successor says it ends, or 0
	payload  atomic.Uint32
	// zeros is how many zero records it has, plus one; 0: not counted yet.
	zeros atomic.Uint64

	// io is held shared by users of the file, exclusively by whoever closes or
	// deletes it.
	io   sync.RWMutex
	gone bool
	shut bool

	openMu sync.Mutex
	file   atomic.Pointer[vfs.File]
	view   atomic.Pointer[view] // used under io
	// lent: pages of the file may be on their way to a client, and for ever
	// afterwards (S9).
	lent atomic.Bool
}

// acquire returns the open file and keeps it open until release. Files are open
// for writing too, since the log may have to end one that it found.
func (l *Log) acquire(s *segFile) (vfs.File, error) {
	s.io.RLock()
	if s.gone || s.shut {
		defer s.io.RUnlock()
		if s.gone {
			return nil, &block.Error{Kind: block.NotFound, Text: fmt.Sprintf("segment %d is gone", s.id), Err: ErrGone}
		}
		return nil, block.Errorf(block.Unavailable, "segment %d: log is closed", s.id)
	}
	if f := s.file.Load(); f != nil {
		return *f, nil
	}
	f, err := s.openFile(l.o.FS, !l.o.ReadOnly)
	if err != nil {
		s.io.RUnlock()
		return nil, err
	}
	return f, nil
}

func (s *segFile) release() { s.io.RUnlock() }

func (s *segFile) openFile(fs vfs.FS, write bool) (vfs.File, error) {
	s.openMu.Lock()
	defer s.openMu.Unlock()
	if f := s.file.Load(); f != nil {
		return *f, nil
	}
	var f vfs.File
	var err error
	if write {
		f, err = fs.OpenReadWrite(s.path, writeCategory)
	} else {
		f, err = fs.Open(s.path)
	}
	if err != nil {
		return nil, block.Errorf(block.IO, "open segment %d: %w", s.id, err)
	}
	s.file.Store(&f)
	return f, nil
}

// close waits for readers and closes the file for good.
func (s *segFile) close(w *views) error {
	s.io.Lock()
	defer s.io.Unlock()
	s.shut = true
	w.forget(s)
	return s.closeFile()
}

func (s *segFile) closeFile() error {
	f := s.file.Swap(nil)
	if f == nil {
		return nil
	}
	return block.Wrap(block.IO, (*f).Close(), fmt.Sprintf("close segment %d", s.id))
}

// remove waits for readers, closes the file, and unlinks it or, if spare is not
// "" and nothing of it was lent (S9), renames it to that, and says so.
func (s *segFile) remove(l *Log, spare string) (kept bool, err error) {
	fs := l.o.FS
	s.io.Lock()
	defer s.io.Unlock()
	l.views.forget(s)
	if err := s.closeFile(); err != nil {
		return false, err
	}
	if kept = spare != "" && !s.lent.Load(); !kept {
		err = fs.Remove(s.path)
	} else {
		err = fs.Rename(s.path, spare)
	}
	if err != nil {
		return false, block.Errorf(block.IO, "delete segment %d: %w", s.id, err)
	}
	s.gone = true
	return kept, nil
}

// list finds the segments in the directory and reads their headers.
func (l *Log) list() error {
	names, err := l.o.FS.List(l.o.Dir)
	if err != nil {
		return block.Errorf(block.IO, "list segments in %s: %w", l.o.Dir, err)
	}
	for _, name := range names {
		id, ok := parseSegmentName(name)
		if !ok {
			continue
		}
		s := &segFile{id: id, path: l.o.FS.PathJoin(l.o.Dir, name)}
		s.written.Store(math.MaxUint32)
		s.lent.Store(true) // by a former process, for all that is known
		if err := l.readHeader(s); err != nil {
			return err
		}
		l.segs.Store(id, s)
		l.maxID = max(l.maxID, id)
	}
	l.findEnds()
	return nil
}

// findEnds notes what successors say about their predecessors; the newest is
// right, since the others were cut off by a recovery.
func (l *Log) findEnds() {
	newest := make(map[block.SegmentID]*segFile)
	l.segs.Range(func(_, v any) bool {
		if s := v.(*segFile); s.valid {
			if o := newest[s.header.prev.Segment]; o == nil || o.id < s.id {
				newest[s.header.prev.Segment] = s
			}
		}
		return true
	})
	for id, s := range newest {
		if p := l.segment(id); p != nil {
			p.payload.Store(s.header.prevPayload)
			p.end.Store(s.header.prev.Block)
		}
	}
}

// readHeader reads block 0 of a listed segment. A header that does not
// validate is not an error here: a crash while a segment was made leaves one.
func (l *Log) readHeader(s *segFile) error {
	f, err := l.o.FS.Open(s.path)
	if err != nil {
		return block.Errorf(block.IO, "open segment %d: %w", s.id, err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return block.Errorf(block.IO, "stat segment %d: %w", s.id, err)
	}
	s.bytes = allocatedBytes(info)
	var b [block.Size]byte
	n, err := f.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return block.Errorf(block.IO, "read header of segment %d: %w", s.id, err)
	}
	s.blank = unfinishedHeader(b[:], l.o.StoreID, s.id) // S8
	s.header, err = decodeSegmentHeader(b[:n], l.o.StoreID, s.id)
	switch {
	case err == nil:
		s.valid = true
		s.crc = block.MetaChecksum(b[:crcOffset])
	case block.Is(err, block.Unsupported):
		return err
	case !s.blank:
		l.o.Logger.Warn("segment header does not validate", zap.Error(err))
	}
	return nil
}

// segment returns the segment of that id, or nil.
func (l *Log) segment(id block.SegmentID) *segFile {
	if v, ok := l.segs.Load(id); ok {
		return v.(*segFile)
	}
	return nil
}

// syncDir makes created and removed names durable.
func (l *Log) syncDir() error {
	d, err := l.o.FS.OpenDir(l.o.Dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
