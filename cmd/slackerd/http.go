package main

import (
	"context"
	stdlog "log"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/slackerd/slacker/access"
	"github.com/slackerd/slacker/volume"
	"go.uber.org/zap"
)

// Limits of the HTTP server.
const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 64 << 10
)

// health answers the questions of a supervisor.
type health struct{ store *volume.Store }

// live: the store answers.
func (h health) live(ctx context.Context) error {
	_, err := h.store.Status(ctx)
	return err
}

// ready: the store takes writes.
func (h health) ready(ctx context.Context) error {
	st, err := h.store.Status(ctx)
	if err != nil {
		return err
	}
	return st.Fault
}

func answer(check func(context.Context) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		text := "ok\n"
		if err := check(r.Context()); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			text = err.Error() + "\n"
		}
		_, _ = w.Write([]byte(text)) // the client may be gone
	}
}

// guard serves what check allows.
func guard(check func(*http.Request) error, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := check(r); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// identified gives requests over TLS the identity of their certificate.
func identified(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil {
			r = r.WithContext(access.With(r.Context(), access.OfTLS(r.TLS)))
		}
		next.ServeHTTP(w, r)
	})
}

// newHTTP returns the HTTP server of the API, metrics and health.
func newHTTP(apiPath string, apiHandler http.Handler, policy *access.Policy, h health, metrics *prometheus.Registry, profile bool, log *zap.Logger) *http.Server {
	mux := http.NewServeMux()
	mux.Handle(apiPath, apiHandler)
	known := func(r *http.Request) error { return policy.CheckKnown(access.From(r.Context())) }
	mux.Handle("GET /metrics", guard(known, promhttp.HandlerFor(metrics, promhttp.HandlerOpts{ErrorLog: zap.NewStdLog(log), Registry: metrics})))
	mux.Handle("GET /healthz", answer(h.live))
	mux.Handle("GET /readyz", answer(h.ready))
	if profile {
		admin := func(r *http.Request) error { return policy.Check(access.From(r.Context()), access.Admin, "") }
		for path, h := range map[string]http.HandlerFunc{"": pprof.Index, "cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace} {
			mux.Handle("/debug/pprof/"+path, guard(admin, h))
		}
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	// Until the handshake only the user of a unix socket is known.
	connected := func(ctx context.Context, nc net.Conn) context.Context {
		if _, local := nc.(*net.UnixConn); local {
			return access.With(ctx, access.Of(nc))
		}
		return ctx
	}
	return &http.Server{Handler: identified(mux), ConnContext: connected, Protocols: protocols, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes, ErrorLog: stdlog.New(&httpLog{log: log, now: time.Now}, "", 0)}
}
