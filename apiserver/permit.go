package apiserver

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"github.com/slackerd/slacker/access"
	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
)

// need is one permission that a request needs. Without a target it is about
// the server as a whole.
type need struct {
	want   access.Permission
	target string
}

func needs(want access.Permission, target string) []need { return []need{{want, target}} }

// permits holds every request to the policy before the server sees it
// (invariant 4), and leaves out of lists what may not be read.
type permits struct{ s *Server }

func (p *permits) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		if p.s.opts.Access == nil {
			return next(ctx, r)
		}
		id := access.From(ctx)
		if err := p.check(id, r.Any()); err != nil {
			return nil, api.ToConnect(err)
		}
		answer, err := next(ctx, r)
		if err == nil {
			p.filter(id, answer.Any())
		}
		return answer, err
	}
}

func (p *permits) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler: all streams are upkeep of the server as a whole.
func (p *permits) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, c connect.StreamingHandlerConn) error {
		if err := p.s.opts.Access.Check(access.From(ctx), access.Admin, ""); err != nil {
			return api.ToConnect(err)
		}
		return next(ctx, c)
	}
}

func (p *permits) check(id access.Identity, request any) error {
	switch request.(type) {
	case *slackerv1.ListVolumesRequest, *slackerv1.ListAttachmentsRequest, *slackerv1.GetStatusRequest, *slackerv1.GetActivityRequest:
		return p.s.opts.Access.CheckKnown(id)
	}
	wanted, err := p.needs(request)
	if err != nil {
		return err
	}
	for _, n := range wanted {
		if err := p.s.opts.Access.Check(id, n.want, n.target); err != nil {
			return err
		}
	}
	return nil
}

// needs returns what a request needs. One that is not known here needs
// everything.
func (p *permits) needs(request any) ([]need, error) {
	switch m := request.(type) {
	case *slackerv1.GetVolumeRequest:
		return needs(access.Read, m.GetName()), nil
	case *slackerv1.ListSnapshotsRequest:
		if m.GetVolume() == "" {
			return nil, nil // the list is filtered
		}
		return needs(access.Read, m.GetVolume()), nil
	case *slackerv1.GetSnapshotRequest:
		return needs(access.Read, m.GetVolume()), nil
	case *slackerv1.CreateSnapshotRequest:
		return needs(access.Write, m.GetVolume()), nil
	case *slackerv1.PublishRequest:
		return []need{{access.Write, m.GetVolume()}, {access.Clone, m.GetVolume()}, {access.Admin, m.GetNewVolume()}}, nil
	case *slackerv1.CloneSnapshotRequest:
		return []need{{access.Clone, m.GetVolume()}, {access.Admin, m.GetNewVolume()}}, nil
	case *slackerv1.CreateVolumeRequest:
		return needs(access.Admin, m.GetName()), nil
	case *slackerv1.ResizeVolumeRequest:
		return needs(access.Admin, m.GetName()), nil
	case *slackerv1.RenameVolumeRequest:
		return []need{{access.Admin, m.GetName()}, {access.Admin, m.GetNewName()}}, nil
	case *slackerv1.DeleteVolumeRequest:
		all := needs(access.Admin, m.GetName())
		for _, name := range m.GetAlso() {
			all = append(all, need{access.Admin, name})
		}
		return all, nil
	case *slackerv1.DeleteSnapshotRequest:
		return needs(access.Admin, m.GetVolume()), nil
	case *slackerv1.RollbackVolumeRequest:
		return needs(access.Admin, m.GetVolume()), nil
	case *slackerv1.BeginImportRequest:
		return needs(access.Admin, m.GetVolume()), nil
	case *slackerv1.FinishImportRequest:
		return p.needsOfImport(m.GetImportId())
	case *slackerv1.AbortImportRequest:
		return p.needsOfImport(m.GetImportId())
	case *slackerv1.AttachRequest:
		return p.needsOfAttach(m)
	case *slackerv1.DetachRequest:
		return p.needsOfAttachment(m.GetAttachmentId())
	case *slackerv1.GetDirtyRequest:
		return p.needsOfAttachment(m.GetAttachmentId())
	case *slackerv1.ReadBaseRequest:
		return p.needsOfBase(m.GetAttachmentId(), m.GetBaseId())
	case *slackerv1.PutTraceRequest:
		return p.needsOfBase(m.GetAttachmentId(), m.GetBaseId())
	}
	return needs(access.Admin, ""), nil
}

func (p *permits) needsOfImport(id string) ([]need, error) {
	target, err := p.s.store.ImportTarget(id)
	return needs(access.Admin, target), err
}

// needsOfAttach: to confirm an attachment takes what making it took.
func (p *permits) needsOfAttach(m *slackerv1.AttachRequest) ([]need, error) {
	want := access.Write
	if m.GetReadOnly() {
		want = access.Read
	}
	out := needs(want, m.GetTarget())
	if m.GetAttachmentId() == "" {
		return out, nil
	}
	more, err := p.needsOfAttachment(m.GetAttachmentId())
	return append(out, more...), err
}

func (p *permits) needsOfAttachment(id string) ([]need, error) {
	target, writable, err := p.s.store.AttachmentTarget(id)
	if writable {
		return needs(access.Write, target), err
	}
	return needs(access.Read, target), err
}

// needsOfBase: a base has what its clones have hidden, so it takes leave to read
// the base itself, beside what its attachment takes.
func (p *permits) needsOfBase(attachmentID, baseID string) ([]need, error) {
	out, err := p.needsOfAttachment(attachmentID)
	if err != nil {
		return out, err
	}
	target, err := p.s.store.BaseTarget(attachmentID, baseID)
	return append(out, need{access.Read, target}), err
}

// filter leaves out of a list what id may not read, and of an attachment what
// is about a base that it may not.
func (p *permits) filter(id access.Identity, answer any) {
	hidden := func(target string) bool {
		volume, _, _ := strings.Cut(target, "@")
		return !p.s.opts.Access.May(id, access.Read, volume)
	}
	switch m := answer.(type) {
	case *slackerv1.Attachment:
		if m.GetBase() != nil && hidden(m.GetBase().GetTarget()) {
			m.Base.Target, m.Base.Trace, m.Base.Files = "", nil, nil
		}
	case *slackerv1.ListVolumesResponse:
		m.Volumes = slices.DeleteFunc(m.Volumes, func(v *slackerv1.Volume) bool { return hidden(v.GetName()) })
	case *slackerv1.ListSnapshotsResponse:
		m.Snapshots = slices.DeleteFunc(m.Snapshots, func(s *slackerv1.Snapshot) bool { return hidden(s.GetVolume()) })
	case *slackerv1.ListAttachmentsResponse:
		m.Attachments = slices.DeleteFunc(m.Attachments, func(a *slackerv1.Attachment) bool { return hidden(a.GetTarget()) })
	case *slackerv1.Activity:
		m.Targets = slices.DeleteFunc(m.Targets, func(a *slackerv1.TargetActivity) bool { return hidden(a.GetTarget()) })
	}
}
