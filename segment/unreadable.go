package segment

import (
	"slices"
	"strings"

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

// Exists says whether there is a segment of that number, also one that is not in
// use yet.
func (l *Log) Exists(id block.SegmentID) bool { return l.segment(id) != nil }

// IsFile says whether a file of the log's directory, by its name, is a segment or
// a spare.
func IsFile(name string) bool {
	if id, is := strings.CutSuffix(name, spareSuffix); is {
		name = id + segmentSuffix
	}
	_, ok := parseSegmentName(name)
	return ok
}
