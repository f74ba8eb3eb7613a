package apiserver

import (
	"context"

	"connectrpc.com/connect"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/volume"
)

// Attach takes a volume or snapshot into use.
func (s *Server) Attach(ctx context.Context, r *connect.Request[slackerv1.AttachRequest]) (*connect.Response[slackerv1.Attachment], error) {
	m := r.Msg
	if err := checkTarget(m.GetTarget()); err != nil {
		return refuse[slackerv1.Attachment](err)
	}
	if err := checkText("attach "+m.GetTarget()+": worker name", m.GetWorker()); err != nil {
		return refuse[slackerv1.Attachment](err)
	}
	if id := m.GetAttachmentId(); id != "" {
		if err := checkText("attach "+m.GetTarget()+": attachment id", id); err != nil {
			return refuse[slackerv1.Attachment](err)
		}
	}
	a, err := s.store.Attach(ctx, volume.AttachRequest{
		Target: m.GetTarget(), Worker: m.GetWorker(), ReadOnly: m.GetReadOnly(),
		Takeover: m.GetTakeover(), AttachmentID: m.GetAttachmentId(),
	})
	out := s.attachment(a)
	if err == nil && out.GetBase() != nil {
		out.Base.Trace = s.store.Trace(out.GetBase().GetId(), volume.TraceOfBlocks)
		out.Base.Files = s.store.Trace(out.GetBase().GetId(), volume.TraceOfFiles)
	}
	return respond(out, err)
}

// Detach ends an attachment and fences its connections.
func (s *Server) Detach(ctx context.Context, r *connect.Request[slackerv1.DetachRequest]) (*connect.Response[slackerv1.DetachResponse], error) {
	if err := checkText("detach: attachment id", r.Msg.GetAttachmentId()); err != nil {
		return refuse[slackerv1.DetachResponse](err)
	}
	err := s.store.Detach(ctx, r.Msg.GetAttachmentId())
	return respond(&slackerv1.DetachResponse{}, err)
}

// ListAttachments lists attachments of a target or a worker, or all.
func (s *Server) ListAttachments(ctx context.Context, r *connect.Request[slackerv1.ListAttachmentsRequest]) (*connect.Response[slackerv1.ListAttachmentsResponse], error) {
	if target := r.Msg.GetTarget(); target != "" {
		if err := checkTarget(target); err != nil {
			return refuse[slackerv1.ListAttachmentsResponse](err)
		}
	}
	if worker := r.Msg.GetWorker(); worker != "" {
		if err := checkText("list attachments: worker name", worker); err != nil {
			return refuse[slackerv1.ListAttachmentsResponse](err)
		}
	}
	infos, err := s.store.Attachments(ctx, r.Msg.GetTarget(), r.Msg.GetWorker())
	out := &slackerv1.ListAttachmentsResponse{}
	for _, a := range infos {
		out.Attachments = append(out.Attachments, s.attachment(a))
	}
	return respond(out, err)
}

// GetDirty says what an attachment's volume may have written since its base.
func (s *Server) GetDirty(ctx context.Context, r *connect.Request[slackerv1.GetDirtyRequest]) (*connect.Response[slackerv1.GetDirtyResponse], error) {
	m := r.Msg
	if err := checkBase("dirty blocks", m.GetAttachmentId(), m.GetBaseId()); err != nil {
		return refuse[slackerv1.GetDirtyResponse](err)
	}
	runs, err := s.store.Dirty(ctx, m.GetAttachmentId(), m.GetBaseId(), m.GetOffsetBytes())
	out := &slackerv1.GetDirtyResponse{EndBytes: m.GetOffsetBytes()}
	for _, c := range runs {
		if c.Differs {
			out.Runs = append(out.Runs, out.EndBytes, c.LengthBytes)
		}
		out.EndBytes += c.LengthBytes
	}
	return respond(out, err)
}
