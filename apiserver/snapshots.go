package apiserver

import (
	"context"

	"connectrpc.com/connect"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
)

// CreateSnapshot makes a snapshot of a volume as it is now.
func (s *Server) CreateSnapshot(ctx context.Context, r *connect.Request[slackerv1.CreateSnapshotRequest]) (*connect.Response[slackerv1.Snapshot], error) {
	if err := checkSnapshot(r.Msg.GetVolume(), r.Msg.GetSnapshot()); err != nil {
		return refuse[slackerv1.Snapshot](err)
	}
	info, err := s.store.Snapshot(ctx, r.Msg.GetVolume(), r.Msg.GetSnapshot())
	return respond(snapshotMessage(info), err)
}

// Publish makes a snapshot of a volume, as the one snapshot of a new volume.
func (s *Server) Publish(ctx context.Context, r *connect.Request[slackerv1.PublishRequest]) (*connect.Response[slackerv1.Snapshot], error) {
	volume, newVolume, snapshot := r.Msg.GetVolume(), r.Msg.GetNewVolume(), r.Msg.GetNewSnapshot()
	if err := block.CheckVolumeName(volume); err != nil {
		return refuse[slackerv1.Snapshot](err)
	}
	if err := checkSnapshot(newVolume, snapshot); err != nil {
		return refuse[slackerv1.Snapshot](err)
	}
	info, err := s.store.Publish(ctx, volume, newVolume+"@"+snapshot)
	return respond(snapshotMessage(info), err)
}

// ListSnapshots lists the snapshots of a volume, or of all volumes.
func (s *Server) ListSnapshots(ctx context.Context, r *connect.Request[slackerv1.ListSnapshotsRequest]) (*connect.Response[slackerv1.ListSnapshotsResponse], error) {
	if name := r.Msg.GetVolume(); name != "" {
		if err := block.CheckVolumeName(name); err != nil {
			return refuse[slackerv1.ListSnapshotsResponse](err)
		}
	}
	infos, err := s.store.Snapshots(ctx, r.Msg.GetVolume())
	return respond(&slackerv1.ListSnapshotsResponse{Snapshots: snapshotMessages(infos)}, err)
}

// GetSnapshot describes a snapshot and, when asked, its space.
func (s *Server) GetSnapshot(ctx context.Context, r *connect.Request[slackerv1.GetSnapshotRequest]) (*connect.Response[slackerv1.GetSnapshotResponse], error) {
	volume, snapshot := r.Msg.GetVolume(), r.Msg.GetSnapshot()
	if err := checkSnapshot(volume, snapshot); err != nil {
		return refuse[slackerv1.GetSnapshotResponse](err)
	}
	info, err := s.store.GetSnapshot(ctx, volume, snapshot)
	if err != nil {
		return refuse[slackerv1.GetSnapshotResponse](err)
	}
	out := &slackerv1.GetSnapshotResponse{Snapshot: snapshotMessage(info)}
	if r.Msg.GetWithSpace() {
		space, err := s.store.Space(ctx, volume+"@"+snapshot)
		if err != nil {
			return refuse[slackerv1.GetSnapshotResponse](err)
		}
		out.Space = spaceMessage(space)
	}
	return respond(out, nil)
}

// DeleteSnapshot deletes a snapshot, or says what that would free.
func (s *Server) DeleteSnapshot(ctx context.Context, r *connect.Request[slackerv1.DeleteSnapshotRequest]) (*connect.Response[slackerv1.DeleteResponse], error) {
	volume, snapshot := r.Msg.GetVolume(), r.Msg.GetSnapshot()
	if err := checkSnapshot(volume, snapshot); err != nil {
		return refuse[slackerv1.DeleteResponse](err)
	}
	target := volume + "@" + snapshot
	if r.Msg.GetDryRun() {
		return s.wouldFree(ctx, target, false)
	}
	err := s.store.DeleteSnapshot(ctx, volume, snapshot)
	return respond(&slackerv1.DeleteResponse{Deleted: []string{target}}, err)
}

// RollbackVolume makes a volume what it was at a snapshot.
func (s *Server) RollbackVolume(ctx context.Context, r *connect.Request[slackerv1.RollbackVolumeRequest]) (*connect.Response[slackerv1.Volume], error) {
	if err := checkSnapshot(r.Msg.GetVolume(), r.Msg.GetSnapshot()); err != nil {
		return refuse[slackerv1.Volume](err)
	}
	info, err := s.store.Rollback(ctx, r.Msg.GetVolume(), r.Msg.GetSnapshot())
	return respond(s.volume(info), err)
}

// CloneSnapshot makes a volume that starts as a snapshot.
func (s *Server) CloneSnapshot(ctx context.Context, r *connect.Request[slackerv1.CloneSnapshotRequest]) (*connect.Response[slackerv1.Volume], error) {
	if err := checkSnapshot(r.Msg.GetVolume(), r.Msg.GetSnapshot()); err != nil {
		return refuse[slackerv1.Volume](err)
	}
	if err := block.CheckVolumeName(r.Msg.GetNewVolume()); err != nil {
		return refuse[slackerv1.Volume](err)
	}
	info, err := s.store.Clone(ctx, r.Msg.GetVolume(), r.Msg.GetSnapshot(), r.Msg.GetNewVolume())
	return respond(s.volume(info), err)
}

// BeginImport makes a staging volume that takes writes over NBD.
func (s *Server) BeginImport(ctx context.Context, r *connect.Request[slackerv1.BeginImportRequest]) (*connect.Response[slackerv1.BeginImportResponse], error) {
	volume, snapshot := r.Msg.GetVolume(), r.Msg.GetSnapshot()
	if err := checkSnapshot(volume, snapshot); err != nil {
		return refuse[slackerv1.BeginImportResponse](err)
	}
	if err := checkSize("import "+volume+"@"+snapshot, r.Msg.GetSizeBytes()); err != nil {
		return refuse[slackerv1.BeginImportResponse](err)
	}
	id, a, err := s.store.BeginImport(ctx, volume, snapshot, r.Msg.GetSizeBytes())
	return respond(&slackerv1.BeginImportResponse{ImportId: id, Attachment: s.attachment(a)}, err)
}

// FinishImport turns the staging volume into the snapshot.
func (s *Server) FinishImport(ctx context.Context, r *connect.Request[slackerv1.FinishImportRequest]) (*connect.Response[slackerv1.Snapshot], error) {
	if err := checkText("finish import: import id", r.Msg.GetImportId()); err != nil {
		return refuse[slackerv1.Snapshot](err)
	}
	info, err := s.store.FinishImport(ctx, r.Msg.GetImportId())
	return respond(snapshotMessage(info), err)
}

// AbortImport drops the staging volume.
func (s *Server) AbortImport(ctx context.Context, r *connect.Request[slackerv1.AbortImportRequest]) (*connect.Response[slackerv1.AbortImportResponse], error) {
	if err := checkText("abort import: import id", r.Msg.GetImportId()); err != nil {
		return refuse[slackerv1.AbortImportResponse](err)
	}
	err := s.store.AbortImport(ctx, r.Msg.GetImportId())
	return respond(&slackerv1.AbortImportResponse{}, err)
}
