package apiserver

import (
	"context"

	"connectrpc.com/connect"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
)

// GetActivity says what NBD connections did so far, by volume and snapshot or one
// by one.
func (s *Server) GetActivity(_ context.Context, r *connect.Request[slackerv1.GetActivityRequest]) (*connect.Response[slackerv1.Activity], error) {
	out := &slackerv1.Activity{}
	if s.opts.Activity != nil {
		out = s.opts.Activity(r.Msg.GetByConnection())
	}
	if out.GetTime() == nil {
		out.Time = timestamp(s.opts.Now())
	}
	return respond(out, nil)
}
