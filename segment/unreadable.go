package segment

import (
	"slices"
	"strings"

	"github.com/slackerd/slacker/block"
)

// Unreadable lists the segments whose header was written and does not validate: that
// it was is known of what it holds, or by a later segment that has one.
func (l *Log) Unreadable() (ids []block.SegmentID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var last block.SegmentID // with a header
	l.segs.Range(func(_, v any) bool {
		if s := v.(*segFile); s.valid {
			last = max(last, s.id)
		}
		return true
	})
	l.segs.Range(func(_, v any) bool {
		if s := v.(*segFile); !s.valid && s != l.prepared && (!s.blank || s.id < last) {
			ids = append(ids, s.id)
		}
		return true
	})
	slices.Sort(ids)
	return ids
}

// Begun lists all segments that were begun, readable or not, by age.
func (l *Log) Begun() []block.SegmentID {
	ids := l.Unreadable()
	for _, g := range l.Segments() {
		ids = append(ids, g.ID)
	}
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
