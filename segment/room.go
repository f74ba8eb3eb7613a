package segment

import (
	"github.com/slackerd/slacker/block"
)

// The reserve: writes of clients leave Options.Reserve bytes of the disk free.
// What gives space back may go below that, down to a part: the cleaner needs a
// segment to move to before it can delete one, and trims are records too. While
// less than the reserve is free the log is short, and refuses data of clients as
// it does on a full disk (S5).

// strictness says how much room must be left by who makes a segment.
type strictness bool

const (
	strict strictness = true  // data of clients: the whole reserve
	freer  strictness = false // what gives space back
)

// freerShare is the part of the reserve, as its inverse, that is left to the map
// even by what gives space back.
const freerShare = 8

func strictnessOf(k Kind) strictness { return k == Data }

// freeBytes returns the bytes that are free on the disk; ok is false when nobody
// knows or asks.
func (l *Log) freeBytes() (bytes int64, ok bool) {
	if l.o.Reserve == 0 {
		return 0, false
	}
	u, err := l.o.FS.GetDiskUsage(l.o.Dir)
	return int64(min(u.AvailBytes, 1<<62)), err == nil
}

// mayMake refuses a new segment that would take from the reserve what is not
// meant for it. It also says whether the log is short afterwards.
func (l *Log) mayMake(id block.SegmentID, s strictness) (short bool, err error) {
	free, ok := l.freeBytes()
	if !ok {
		return false, nil
	}
	left, want := free-l.o.SegmentBytes, l.o.Reserve
	if s == freer {
		want /= freerShare
	}
	if left < want {
		return true, block.Errorf(block.NoSpace, "make segment %d: %d bytes are free: want %d for it and %d in reserve", id, free, l.o.SegmentBytes, want)
	}
	return left < l.o.Reserve, nil
}

// CheckRoom looks whether the reserve is free. It is called now and then: others
// use the disk too.
func (l *Log) CheckRoom() {
	free, ok := l.freeBytes()
	if !ok {
		return
	}
	l.mu.Lock()
	l.short = free < l.o.Reserve
	l.full = l.full && free-l.o.SegmentBytes < l.o.Reserve
	l.mu.Unlock()
}

// Short says whether data is refused: less than the reserve is free, or would be
// with the segment that data needs.
func (l *Log) Short() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.short || l.held || l.full && l.prepared == nil && !l.tailHasRoom()
}

func (l *Log) noRoom() error {
	return block.Errorf(block.NoSpace, "less than the reserve of %d bytes is free in %s: no data is taken", l.o.Reserve, l.o.Dir)
}

// Hold makes the log refuse data, as when it is short, until told otherwise: the
// map has run out of room, and data would need entries in it.
func (l *Log) Hold(held bool) {
	l.mu.Lock()
	l.held = held
	l.mu.Unlock()
}

// Room returns how many bytes may still become segments, without the reserve, and
// how many the disk has in all; ok is false when that is not known.
func (l *Log) Room() (room, capacity int64, ok bool) {
	u, err := l.o.FS.GetDiskUsage(l.o.Dir)
	if err != nil {
		return 0, 0, false
	}
	return int64(min(u.AvailBytes, 1<<62)) - l.o.Reserve, int64(min(u.TotalBytes, 1<<62)), true
}

// Deleted counts the segments that were deleted since the log was opened.
func (l *Log) Deleted() uint64 { return l.deleted.Load() }

// SegmentBytes is the length of new segments.
func (l *Log) SegmentBytes() int64 { return l.o.SegmentBytes }
