package cow

import (
	"time"

	"github.com/slackerd/slacker/block"
)

// VolumeRecord is a volume as it is stored.
type VolumeRecord struct {
	ID         block.VolumeID   `json:"id"`
	Name       string           `json:"name"`
	SizeBytes  uint64           `json:"size_bytes"`
	Created    time.Time        `json:"created"`
	Origin     string           `json:"origin,omitempty"`
	Head       block.LayerID    `json:"head"`
	Generation block.Generation `json:"generation"` // of the newest writable attachment
	// Import, when not empty, hides the volume: it is being filled and will
	// become the snapshot ImportTarget, or go.
	Import       string `json:"import,omitempty"`
	ImportTarget string `json:"import_target,omitempty"`
}

// SnapshotRecord is a snapshot as it is stored.
type SnapshotRecord struct {
	Volume    block.VolumeID `json:"volume"`
	Name      string         `json:"name"`
	SizeBytes uint64         `json:"size_bytes"`
	Created   time.Time      `json:"created"`
	Layer     block.LayerID  `json:"layer"`
	// LastUsed is when a volume whose origin this was went, or became another's.
	LastUsed time.Time `json:"last_used,omitzero"`
}

// LayerRecord is a layer as it is stored. Who names it follows from the volume
// and snapshot records, how many children it has from the other layers.
type LayerRecord struct {
	ID     block.LayerID `json:"id"`
	Parent block.LayerID `json:"parent,omitempty"`
	Map    MapID         `json:"map"`
	// Born is a segment before which nothing was written for the layer, or 0.
	Born block.SegmentID `json:"born,omitempty"`
}

// AttachmentRecord is an attachment as it is stored.
type AttachmentRecord struct {
	ID         string           `json:"id"`
	Volume     block.VolumeID   `json:"volume"`
	Snapshot   string           `json:"snapshot,omitempty"`
	Worker     string           `json:"worker"`
	ReadOnly   bool             `json:"read_only,omitempty"`
	Generation block.Generation `json:"generation,omitempty"`
	Created    time.Time        `json:"created"`
}

// ReplayPoint is where the log must be replayed from: everything before it is
// in the map.
type ReplayPoint struct {
	Segment block.SegmentID
	Block   uint32
	NextLSN uint64 // the number of the first record at or after the point
}

// Catalog is everything but the pages, as read at open.
type Catalog struct {
	Volumes     []VolumeRecord
	Snapshots   []SnapshotRecord
	Layers      []LayerRecord
	Attachments []AttachmentRecord
	Replay      ReplayPoint
	NextID      uint64
	Merged      map[block.LayerID]Forward // layers that are gone, and what holds their entries
	Live        map[block.SegmentID]int64 // live blocks by segment
	Counts      map[MapID]int64           // data blocks by map
}
