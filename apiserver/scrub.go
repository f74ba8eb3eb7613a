package apiserver

import (
	"context"

	"connectrpc.com/connect"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
)

// StartScrub begins a scrub, or lets one go on.
func (s *Server) StartScrub(ctx context.Context, _ *connect.Request[slackerv1.StartScrubRequest]) (*connect.Response[slackerv1.Scrub], error) {
	err := s.opts.Scrubber.StartScrub(ctx)
	return respond(s.scrub(ctx), err)
}

// StopScrub makes it rest.
func (s *Server) StopScrub(ctx context.Context, _ *connect.Request[slackerv1.StopScrubRequest]) (*connect.Response[slackerv1.Scrub], error) {
	err := s.opts.Scrubber.StopScrub(ctx)
	return respond(s.scrub(ctx), err)
}

// GetScrub says how far it is.
func (s *Server) GetScrub(ctx context.Context, _ *connect.Request[slackerv1.GetScrubRequest]) (*connect.Response[slackerv1.Scrub], error) {
	return respond(s.scrub(ctx), nil)
}

func (s *Server) scrub(ctx context.Context) *slackerv1.Scrub {
	st := s.opts.Scrubber.ScrubState(ctx)
	out := &slackerv1.Scrub{Running: st.Running, DoneBlocks: st.DoneBlocks, TotalBlocks: st.TotalBlocks, Runs: st.Runs,
		Damage: damageMessages(st.Damage), MoreDamage: st.More, Problem: st.Problem}
	if !st.Started.IsZero() {
		out.Started = timestamp(st.Started)
	}
	if !st.Finished.IsZero() {
		out.Finished = timestamp(st.Finished)
	}
	return out
}

// GetGarbage says what a collection would free, and what nothing refers to.
func (s *Server) GetGarbage(ctx context.Context, _ *connect.Request[slackerv1.GetGarbageRequest]) (*connect.Response[slackerv1.Garbage], error) {
	bytes, orphans, err := s.opts.Collector.Garbage(ctx)
	out := &slackerv1.Garbage{ReclaimableBytes: bytes}
	for _, o := range orphans {
		out.Orphans = append(out.Orphans, &slackerv1.Orphan{Kind: o.Kind, Object: o.Object, Detail: o.Detail, Bytes: o.Bytes, Collected: o.Collected})
	}
	return respond(out, err)
}
