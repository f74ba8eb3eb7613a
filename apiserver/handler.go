package apiserver

import (
	"context"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
)

// NewHandler returns the path prefix of the service and its handler. The HTTP
// server around it sets the timeouts.
func NewHandler(s *Server) (path string, h http.Handler) {
	opts := []connect.HandlerOption{
		connect.WithReadMaxBytes(MaxRequestBytes),
		connect.WithInterceptors(&logger{log: s.opts.Log}, &permits{s}),
		connect.WithRecover(s.recovered),
	}
	for _, name := range jsonNames {
		opts = append(opts, connect.WithCodec(strictJSON{name}))
	}
	return slackerv1connect.NewAdminServiceHandler(s, opts...)
}

// recovered logs a panic and makes it the error of its request. What panicked
// stays in the log: it is no business of the caller.
func (s *Server) recovered(_ context.Context, spec connect.Spec, _ http.Header, cause any) error {
	s.opts.Log.Error("panic in a request", zap.String("procedure", spec.Procedure), zap.Any("cause", cause), zap.Stack("stack"))
	return api.ToConnect(block.Errorf(block.Internal, "%s: a fault in the server; its log says more", spec.Procedure))
}

// logger logs every request at debug level.
type logger struct{ log *zap.Logger }

func (l *logger) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		start := time.Now()
		resp, err := next(ctx, r)
		l.request(r.Spec(), r.Peer(), start, err)
		return resp, err
	}
}

func (l *logger) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (l *logger) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, c connect.StreamingHandlerConn) error {
		start := time.Now()
		err := next(ctx, c)
		l.request(c.Spec(), c.Peer(), start, err)
		return err
	}
}

func (l *logger) request(spec connect.Spec, peer connect.Peer, start time.Time, err error) {
	code := "ok"
	if err != nil {
		code = connect.CodeOf(err).String()
	}
	l.log.Debug("request", zap.String("procedure", spec.Procedure), zap.String("peer", peer.Addr),
		zap.String("protocol", peer.Protocol), zap.Duration("took", time.Since(start)), zap.String("code", code), zap.Error(err))
}
