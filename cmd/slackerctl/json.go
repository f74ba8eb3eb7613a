package main

import (
	"encoding/json"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
)

// The JSON that commands answer with. Fields are added, never renamed, removed
// or given another meaning. Sizes are bytes.

type volumeJSON struct {
	Name       string          `json:"name"`
	ID         uint64          `json:"id"`
	SizeBytes  uint64          `json:"size_bytes"`
	Created    string          `json:"created"`
	Origin     string          `json:"origin"`
	Snapshots  uint32          `json:"snapshot_count"`
	HeadBytes  uint64          `json:"head_bytes"`
	Attachment *attachmentJSON `json:"attachment"`
}

func toVolume(v *slackerv1.Volume) volumeJSON {
	out := volumeJSON{Name: v.GetName(), ID: v.GetId(), SizeBytes: v.GetSizeBytes(), Created: stamp(v.GetCreated()),
		Origin: v.GetOrigin(), Snapshots: v.GetSnapshots(), HeadBytes: v.GetHeadBytes()}
	if v.GetAttachment() != nil {
		a := toAttachment(v.GetAttachment())
		out.Attachment = &a
	}
	return out
}

type snapshotJSON struct {
	Name       string `json:"name"` // VOLUME@SNAPSHOT
	Volume     string `json:"volume"`
	Snapshot   string `json:"snapshot"`
	SizeBytes  uint64 `json:"size_bytes"`
	Created    string `json:"created"`
	LayerBytes uint64 `json:"layer_bytes"`
}

func toSnapshot(s *slackerv1.Snapshot) snapshotJSON {
	return snapshotJSON{Name: snapshotName(s), Volume: s.GetVolume(), Snapshot: s.GetName(),
		SizeBytes: s.GetSizeBytes(), Created: stamp(s.GetCreated()), LayerBytes: s.GetLayerBytes()}
}

func snapshotName(s *slackerv1.Snapshot) string { return s.GetVolume() + "@" + s.GetName() }

type spaceJSON struct {
	LogicalBytes   uint64 `json:"logical_bytes"`
	ExclusiveBytes uint64 `json:"exclusive_bytes"`
	SharedBytes    uint64 `json:"shared_bytes"`
	WouldFreeBytes uint64 `json:"would_free_bytes"`
}

func toSpace(s *slackerv1.Space) spaceJSON {
	return spaceJSON{LogicalBytes: s.GetLogicalBytes(), ExclusiveBytes: s.GetExclusiveBytes(),
		SharedBytes: s.GetSharedBytes(), WouldFreeBytes: s.GetWouldFreeBytes()}
}

type attachmentJSON struct {
	ID           string   `json:"id"`
	Target       string   `json:"target"`
	Worker       string   `json:"worker"`
	ReadOnly     bool     `json:"read_only"`
	Generation   uint64   `json:"generation"`
	ExportName   string   `json:"export_name"`
	SizeBytes    uint64   `json:"size_bytes"`
	Created      string   `json:"created"`
	NBDAddresses []string `json:"nbd_addresses"`
	Connections  uint32   `json:"connections"`
}

func toAttachment(a *slackerv1.Attachment) attachmentJSON {
	return attachmentJSON{ID: a.GetId(), Target: a.GetTarget(), Worker: a.GetWorker(), ReadOnly: a.GetReadOnly(),
		Generation: a.GetGeneration(), ExportName: a.GetExportName(), SizeBytes: a.GetSizeBytes(),
		Created: stamp(a.GetCreated()), NBDAddresses: list(a.GetNbdAddresses(), same), Connections: a.GetConnections()}
}

type deletedJSON struct {
	DryRun         bool     `json:"dry_run"`
	Deleted        []string `json:"deleted"`
	WouldFreeBytes uint64   `json:"would_free_bytes"` // 0 unless dry_run
}

type statusJSON struct {
	Server           string   `json:"server"`
	Version          string   `json:"version"`
	DataDir          string   `json:"data_dir"`
	Started          string   `json:"started"`
	FormatVersion    uint32   `json:"format_version"`
	NBDAddresses     []string `json:"nbd_addresses"`
	Volumes          uint64   `json:"volumes"`
	Snapshots        uint64   `json:"snapshots"`
	Attachments      uint64   `json:"attachments"`
	Connections      uint64   `json:"connections"`
	DataBytes        uint64   `json:"data_bytes"`
	SegmentBytes     uint64   `json:"segment_bytes"`
	ReclaimableBytes uint64   `json:"reclaimable_bytes"`
	CapacityBytes    uint64   `json:"capacity_bytes"`
	FreeBytes        uint64   `json:"free_bytes"`
	ReserveBytes     uint64   `json:"reserve_bytes"` // of the free bytes, what data leaves
	Short            bool     `json:"short"`         // data is refused
	ReadOnly         bool     `json:"read_only"`
	Fault            string   `json:"fault"`
}

type damageJSON struct {
	Kind     string   `json:"kind"`
	Object   string   `json:"object"`
	Detail   string   `json:"detail"`
	Affected []string `json:"affected"`
}

type gcJSON struct {
	DryRun     bool     `json:"dry_run"`
	FreedBytes uint64   `json:"freed_bytes"` // with dry_run: what would be freed
	Errors     []string `json:"errors"`
}

type imageJSON struct {
	Target       string          `json:"target"` // VOLUME@SNAPSHOT, or the file
	Format       string          `json:"format"`
	SizeBytes    uint64          `json:"size_bytes"`
	SourceBytes  uint64          `json:"source_bytes"`
	WrittenBytes uint64          `json:"written_bytes"`
	PaddedBytes  uint64          `json:"padded_bytes"`
	Files        uint64          `json:"files"`
	Image        string          `json:"image"`
	Config       json.RawMessage `json:"config"` // of a container image, or null
	Warnings     []string        `json:"warnings"`
	TookSeconds  float64         `json:"took_seconds"`
}
