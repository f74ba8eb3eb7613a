package segment

import (
	"context"

	"github.com/slackerd/slacker/block"
)

// ZerosPerBlock is how many zero records a chunk of nothing else has, and so how
// many take the room of a block of data.
const ZerosPerBlock = (maxEntriesEnd - chunkFixedBytes) / entryBytes

// Zeros counts the zero records of a segment. The first time it may have to read
// the headers of one that an earlier process wrote.
func (l *Log) Zeros(ctx context.Context, id block.SegmentID) (uint64, error) {
	s := l.segment(id)
	if s == nil {
		return 0, nil
	}
	if n := s.zeros.Load(); n > 0 {
		return n - 1, nil
	}
	n := uint64(0)
	err := l.Scan(ctx, id, func(r Record) error {
		if r.Kind == Zero {
			n++
		}
		return nil
	})
	if err == nil {
		s.zeros.CompareAndSwap(0, n+1)
	}
	return n, err
}

// KnownZeros is Zeros as far as it is known without reading.
func (l *Log) KnownZeros(id block.SegmentID) uint64 {
	if s := l.segment(id); s != nil {
		if n := s.zeros.Load(); n > 0 {
			return n - 1
		}
	}
	return 0
}
