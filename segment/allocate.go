package segment

import (
	"errors"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/slackerd/slacker/block"
)

// allocate reserves the whole length of a new segment.
func (l *Log) allocate(f vfs.File) error {
	err := f.Preallocate(0, l.o.SegmentBytes)
	if !errors.Is(err, syscall.EOPNOTSUPP) && !errors.Is(err, syscall.ENOSYS) {
		return err
	}
	zeros := make([]byte, maxChunkBlocks*block.Size)
	for off := int64(0); off < l.o.SegmentBytes; off += int64(len(zeros)) {
		n := min(int64(len(zeros)), l.o.SegmentBytes-off)
		if _, err := f.WriteAt(zeros[:n], off); err != nil {
			return err
		}
	}
	return nil
}

// allocatedBytes returns what a file occupies, or its length where the file
// system does not say.
func allocatedBytes(info vfs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}
