package apiserver

import (
	"context"
	"strings"

	"connectrpc.com/connect"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
)

// CreateVolume makes an empty volume.
func (s *Server) CreateVolume(ctx context.Context, r *connect.Request[slackerv1.CreateVolumeRequest]) (*connect.Response[slackerv1.Volume], error) {
	name, size := r.Msg.GetName(), r.Msg.GetSizeBytes()
	if err := block.CheckVolumeName(name); err != nil {
		return refuse[slackerv1.Volume](err)
	}
	if err := checkSize("create volume "+name, size); err != nil {
		return refuse[slackerv1.Volume](err)
	}
	info, err := s.store.Create(ctx, name, size)
	return respond(s.volume(info), err)
}

// ListVolumes lists the volumes whose names begin with a prefix.
func (s *Server) ListVolumes(ctx context.Context, r *connect.Request[slackerv1.ListVolumesRequest]) (*connect.Response[slackerv1.ListVolumesResponse], error) {
	prefix := r.Msg.GetPrefix()
	if err := checkPrefix(prefix); err != nil {
		return refuse[slackerv1.ListVolumesResponse](err)
	}
	infos, err := s.store.List(ctx, prefix)
	out := &slackerv1.ListVolumesResponse{}
	for _, i := range infos {
		out.Volumes = append(out.Volumes, s.volume(i))
	}
	return respond(out, err)
}

// checkPrefix checks the beginning of a name: one more letter, or a part of
// one letter, would make it a name.
func checkPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	if err := block.CheckVolumeName(strings.TrimSuffix(prefix, "/")); err != nil {
		return block.Wrap(block.Invalid, err, "list volumes with a prefix")
	}
	return nil
}

// GetVolume describes a volume, its snapshots and, when asked, its space.
func (s *Server) GetVolume(ctx context.Context, r *connect.Request[slackerv1.GetVolumeRequest]) (*connect.Response[slackerv1.GetVolumeResponse], error) {
	name := r.Msg.GetName()
	if err := block.CheckVolumeName(name); err != nil {
		return refuse[slackerv1.GetVolumeResponse](err)
	}
	info, err := s.store.Get(ctx, name)
	if err != nil {
		return refuse[slackerv1.GetVolumeResponse](err)
	}
	snapshots, err := s.store.Snapshots(ctx, name)
	if err != nil {
		return refuse[slackerv1.GetVolumeResponse](err)
	}
	out := &slackerv1.GetVolumeResponse{Volume: s.volume(info), Snapshots: snapshotMessages(snapshots)}
	if r.Msg.GetWithSpace() {
		space, err := s.store.Space(ctx, name)
		if err != nil {
			return refuse[slackerv1.GetVolumeResponse](err)
		}
		out.Space = spaceMessage(space)
	}
	return respond(out, nil)
}

// ResizeVolume grows a volume.
func (s *Server) ResizeVolume(ctx context.Context, r *connect.Request[slackerv1.ResizeVolumeRequest]) (*connect.Response[slackerv1.Volume], error) {
	name, size := r.Msg.GetName(), r.Msg.GetSizeBytes()
	if err := block.CheckVolumeName(name); err != nil {
		return refuse[slackerv1.Volume](err)
	}
	if err := checkSize("resize volume "+name, size); err != nil {
		return refuse[slackerv1.Volume](err)
	}
	info, err := s.store.Resize(ctx, name, size)
	return respond(s.volume(info), err)
}

// RenameVolume gives a volume another name.
func (s *Server) RenameVolume(ctx context.Context, r *connect.Request[slackerv1.RenameVolumeRequest]) (*connect.Response[slackerv1.Volume], error) {
	for _, name := range []string{r.Msg.GetName(), r.Msg.GetNewName()} {
		if err := block.CheckVolumeName(name); err != nil {
			return refuse[slackerv1.Volume](err)
		}
	}
	info, err := s.store.Rename(ctx, r.Msg.GetName(), r.Msg.GetNewName())
	return respond(s.volume(info), err)
}

// DeleteVolume deletes a volume, or says what that would free.
func (s *Server) DeleteVolume(ctx context.Context, r *connect.Request[slackerv1.DeleteVolumeRequest]) (*connect.Response[slackerv1.DeleteResponse], error) {
	name := r.Msg.GetName()
	if err := block.CheckVolumeName(name); err != nil {
		return refuse[slackerv1.DeleteResponse](err)
	}
	if r.Msg.GetDryRun() {
		return s.wouldFree(ctx, name, r.Msg.GetWithSnapshots(), r.Msg.GetAlso()...)
	}
	if since := r.Msg.GetUnusedSince(); since != nil {
		if err := since.CheckValid(); err != nil {
			return refuse[slackerv1.DeleteResponse](block.Errorf(block.Invalid, "delete volume %s: unused since: %w", name, err))
		}
		deleted, err := s.store.DeleteUnused(ctx, name, since.AsTime())
		return respond(&slackerv1.DeleteResponse{Deleted: deleted}, err)
	}
	deleted, err := s.store.Delete(ctx, name, r.Msg.GetWithSnapshots())
	return respond(&slackerv1.DeleteResponse{Deleted: deleted}, err)
}

func (s *Server) wouldFree(ctx context.Context, target string, withSnapshots bool, also ...string) (*connect.Response[slackerv1.DeleteResponse], error) {
	freed, deleted, err := s.store.WouldFree(ctx, target, withSnapshots, also...)
	return respond(&slackerv1.DeleteResponse{WouldFreeBytes: freed, Deleted: deleted}, err)
}
