package apiserver

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/volume"
)

func (s *Server) volume(i volume.Info) *slackerv1.Volume {
	v := &slackerv1.Volume{
		Name: i.Name, Id: uint64(i.ID), SizeBytes: i.SizeBytes, Created: timestamp(i.Created), Origin: i.Origin,
		Snapshots: uint32(max(i.Snapshots, 0)), HeadBytes: i.HeadBytes, //nolint:gosec // counts are far below 2^32
	}
	if i.Attachment != nil {
		v.Attachment = s.attachment(*i.Attachment)
	}
	return v
}

func (s *Server) attachment(a volume.AttachmentInfo) *slackerv1.Attachment {
	m := &slackerv1.Attachment{
		Id: a.ID, Target: a.Target, Worker: a.Worker, ReadOnly: a.ReadOnly, Generation: uint64(a.Generation),
		ExportName: a.ExportName, SizeBytes: a.SizeBytes, Created: timestamp(a.Created),
		NbdAddresses: s.opts.NBDAddresses,
		Connections:  uint32(max(a.Connections, 0)), //nolint:gosec // counts are far below 2^32
	}
	if b := a.Base; b != nil {
		m.Base = &slackerv1.Base{Id: b.ID, SizeBytes: b.SizeBytes, Clean: b.Clean, Target: b.Target}
	}
	return m
}

func snapshotMessage(i volume.SnapshotInfo) *slackerv1.Snapshot {
	return &slackerv1.Snapshot{Volume: i.Volume, Name: i.Name, SizeBytes: i.SizeBytes,
		Created: timestamp(i.Created), LayerBytes: i.LayerBytes, LastUsed: timestamp(i.LastUsed)}
}

func snapshotMessages(infos []volume.SnapshotInfo) []*slackerv1.Snapshot {
	out := make([]*slackerv1.Snapshot, 0, len(infos))
	for _, i := range infos {
		out = append(out, snapshotMessage(i))
	}
	return out
}

func spaceMessage(s volume.Space) *slackerv1.Space {
	return &slackerv1.Space{LogicalBytes: s.LogicalBytes, ExclusiveBytes: s.ExclusiveBytes,
		SharedBytes: s.SharedBytes, WouldFreeBytes: s.WouldFreeBytes}
}

// timestamp leaves a time that is not known out.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
