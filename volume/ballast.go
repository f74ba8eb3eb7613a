package volume

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
)

// ballastName is the file that occupies a part of the reserve.
const ballastName = "BALLAST"

// ballastShare is how much of the reserve, as its inverse, it has besides a segment,
// without which nothing can be moved or trimmed.
const ballastShare = 4

// ballast is a file without a meaning. Pebble ends the process when it meets a
// full disk, which may become full by others' doing however much our own writes
// leave free. Then the file goes, what Pebble wrote is tried again, and data of
// clients is refused until there is room for the file and the whole reserve.
type ballast struct {
	fs    vfs.FS
	path  string
	bytes int64 // 0: there is none
	keep  int64 // what must be free besides to make it
	log   *zap.Logger

	mu   sync.Mutex
	gone bool
}

func (b *ballast) init(fs vfs.FS, path string, reserveBytes, segmentBytes int64, log *zap.Logger) {
	b.fs, b.path, b.log = fs, path, log
	if reserveBytes > 0 {
		b.bytes, b.keep = segmentBytes+reserveBytes/ballastShare/block.Size*block.Size, reserveBytes
	}
}

// drop gives the room back.
func (b *ballast) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bytes == 0 || b.gone {
		return
	}
	b.gone = true
	if err := b.fs.Remove(b.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		b.log.Error("the disk is full, and the ballast cannot be removed", zap.String("file", b.path), zap.Error(err))
		return
	}
	b.log.Warn("the disk is full: the ballast was removed to go on; no data is taken until there is room", zap.String("file", b.path), zap.Int64("bytes", b.bytes))
}

// restore makes the file if it is not there and the disk has room for it, and
// returns whether it is there.
func (b *ballast) restore() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bytes == 0 {
		return true
	}
	if info, err := b.fs.Stat(b.path); err == nil && info.Size() >= b.bytes {
		b.gone = false
		return true
	}
	u, err := b.fs.GetDiskUsage(b.fs.PathDir(b.path))
	if err == nil && u.AvailBytes < uint64(b.bytes+b.keep) {
		b.gone = true
		return false
	}
	if err := b.make(); err != nil {
		b.log.Warn("the ballast could not be made", zap.String("file", b.path), zap.Error(err))
		_ = b.fs.Remove(b.path) // a part of it is of no use
		b.gone = true
		return false
	}
	b.gone = false
	return true
}

// make allocates the file, or writes it where the file system cannot allocate.
func (b *ballast) make() error {
	f, err := b.fs.Create(b.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	err = f.Preallocate(0, b.bytes)
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
		zeros := make([]byte, 1<<20)
		err = nil
		for at := int64(0); at < b.bytes && err == nil; at += int64(len(zeros)) {
			_, err = f.WriteAt(zeros[:min(b.bytes-at, int64(len(zeros)))], at)
		}
	}
	if err == nil {
		_, err = f.WriteAt([]byte{0}, b.bytes-1) // allocating leaves the length as it was
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// diskFull is called when a write of anything but the log met a full disk; the
// write is tried again afterwards.
func (s *Store) diskFull() {
	s.ballast.drop()
	s.held.Store(true)
	if l := s.logIfOpen.Load(); l != nil {
		l.Hold(true)
	}
}

// checkRoom looks whether there is room, and takes data again if there is.
func (s *Store) checkRoom() {
	s.log.CheckRoom()
	whole := s.ballast.restore()
	s.held.Store(!whole)
	s.log.Hold(!whole)
	short := s.log.Short()
	switch {
	case s.short.Swap(short) == short:
	case short:
		s.o.Logger.Warn("no space: data is refused until more than the reserve and a segment are free", zap.String("dir", s.o.Dir),
			zap.Int64("reserve_bytes", s.o.ReserveBytes), zap.Int64("segment_bytes", s.o.SegmentBytes))
	default:
		s.o.Logger.Info("there is space: data is taken again", zap.String("dir", s.o.Dir))
	}
}

// makeRoom is called with nothing locked by who found no room (V8). It returns
// whether to try again.
func (s *Store) makeRoom(ctx context.Context) bool {
	if s.o.MakeRoom == nil || !s.o.MakeRoom(ctx) {
		return false
	}
	if s.held.Load() {
		s.checkRoom()
	}
	return true
}

// mayGrow refuses what makes the catalog larger while the map has no room.
func (s *Store) mayGrow(op string) error {
	if s.held.Load() {
		return block.Errorf(block.NoSpace, "%s: the disk of %s is full; deletes are taken", op, s.o.Dir)
	}
	return nil
}
