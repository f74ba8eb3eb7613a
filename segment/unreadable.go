package segment

import (
	"slices"

	"github.com/slackerd/slacker/block"
)

// Unreadable lists the segments whose header was written and does not validate.
func (l *Log) Unreadable() (ids []block.SegmentID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segs.Range(func(_, v any) bool {
		if s := v.(*segFile); !s.valid && !s.blank && s != l.prepared {
			ids = append(ids, s.id)
		}
		return true
	})
	slices.Sort(ids)
	return ids
}
