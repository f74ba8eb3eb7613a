package volume

import (
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
)

// ReadUse counts reads of the log for clients since the store was opened: each is
// of blocks that follow on one another in a segment.
type ReadUse struct {
	// Memory had their data in memory, Disk may have waited for a disk.
	Memory, Disk uint64
}

// Info describes a volume.
type Info struct {
	ID        block.VolumeID
	Name      string
	SizeBytes uint64
	Created   time.Time
	// Origin is the snapshot it was cloned from or last rolled back to, as
	// VOLUME@SNAPSHOT at that time, or empty. It counts as a use of that (V11),
	// and nothing else depends on it.
	Origin     string
	Snapshots  int
	Head       block.LayerID
	HeadBytes  uint64 // data bytes of the head layer: written since the last snapshot or clone
	Attachment *AttachmentInfo
}

// SnapshotInfo describes a snapshot.
type SnapshotInfo struct {
	Volume, Name string
	SizeBytes    uint64
	Created      time.Time
	Layer        block.LayerID
	LayerBytes   uint64 // data bytes of its layer
	// LastUsed is when the last volume went whose origin this was; zero is never.
	LastUsed time.Time
}

// Space says what a volume or snapshot holds, in bytes, exact at block
// granularity at the moment it was counted. Logical = Exclusive + Shared.
type Space struct {
	LogicalBytes   uint64 // allocated as seen by a reader
	ExclusiveBytes uint64 // held by nothing else
	SharedBytes    uint64 // held by something else too
	WouldFreeBytes uint64 // what deleting it alone would free
}

// AttachmentInfo describes a volume or snapshot in use by a worker.
type AttachmentInfo struct {
	ID         string
	Target     string // VOLUME or VOLUME@SNAPSHOT
	Worker     string
	ReadOnly   bool
	Generation block.Generation // 0 when read-only
	// ExportName is what the worker asks for over NBD, with ".SLOT.INCARNATION"
	// appended; see [Store.Open].
	ExportName  string
	SizeBytes   uint64
	Created     time.Time
	Connections int // open now
	// Base is set in answers to Attach, where there is one.
	Base *BaseInfo
}

// AttachRequest asks for an attachment.
type AttachRequest struct {
	Target   string
	Worker   string
	ReadOnly bool
	// Takeover fences the present writable attachment and takes its place.
	Takeover bool
	// AttachmentID, when set, asks to confirm that this attachment still holds.
	AttachmentID string
}

// Status is the store as a whole.
type Status struct {
	FormatVersion                             uint32
	Volumes, Snapshots, Attachments           int
	Connections                               int
	DataBytes, SegmentBytes, ReclaimableBytes uint64
	CapacityBytes, FreeBytes                  uint64
	// ReserveBytes of the free bytes are not for data; Short: less is free, and
	// data is refused.
	ReserveBytes uint64
	Short        bool
	// MapCache is about pages of the extent map, Reads about data.
	MapCache cow.CacheUse
	Reads    ReadUse
	// Fault is why the store has fenced itself and takes no more writes, or nil.
	Fault error
}
