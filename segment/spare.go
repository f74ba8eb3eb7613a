package segment

import (
	"errors"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
)

// spareSuffix ends the name of a file that was a segment and will be one again.
const spareSuffix = ".spare"

// spareRoom is how many segments must find room on the disk besides, for a
// deleted one to be kept.
const spareRoom = 16

// spareFor returns the path to keep a deleted segment under, or "" when it is
// to be unlinked: there are enough spares, the disk is short of room, or it is
// not of the length that new segments have.
func (l *Log) spareFor(s *segFile) string {
	l.mu.Lock()
	n := len(l.spares)
	l.mu.Unlock()
	if n >= l.o.Spares || s.bytes != l.o.SegmentBytes {
		return ""
	}
	if u, err := l.o.FS.GetDiskUsage(l.o.Dir); err == nil && u.AvailBytes < uint64(spareRoom*l.o.SegmentBytes) {
		return ""
	}
	return strings.TrimSuffix(s.path, segmentSuffix) + spareSuffix
}

// takeSpare returns the path of a spare, or "".
func (l *Log) takeSpare() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.spares)
	if n == 0 {
		return ""
	}
	path := l.spares[n-1] // the last one: its pages are most likely in memory
	l.spares = l.spares[:n-1]
	return path
}

// recycle makes a spare the file of s. Its first block is durably zero before
// it gets the name of a segment, so that a crash leaves what a new file would
// (S7).
func (l *Log) recycle(spare string, s *segFile) (f vfs.File, err error) {
	if f, err = l.o.FS.OpenReadWrite(spare, writeCategory); err != nil {
		return nil, err
	}
	var zeros [block.Size]byte
	if _, err = f.WriteAt(zeros[:], 0); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = l.o.FS.Rename(spare, s.path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s.recycled = true
	return f, nil
}

// dropSpares removes the spares that another process left.
func (l *Log) dropSpares() error {
	names, err := l.o.FS.List(l.o.Dir)
	if err != nil {
		return block.Errorf(block.IO, "list spare segments in %s: %w", l.o.Dir, err)
	}
	for _, name := range names {
		id, isSpare := strings.CutSuffix(name, spareSuffix)
		if _, ok := parseSegmentName(id + segmentSuffix); !ok || !isSpare {
			continue
		}
		if err := l.o.FS.Remove(l.o.FS.PathJoin(l.o.Dir, name)); err != nil {
			l.o.Logger.Warn("spare segment stays", zap.String("file", name), zap.Error(err))
		}
	}
	return nil
}
