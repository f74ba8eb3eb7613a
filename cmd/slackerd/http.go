package main

import (
	"context"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
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

// newHTTP returns the HTTP server of the API, metrics and health.
func newHTTP(apiPath string, apiHandler http.Handler, h health, metrics *prometheus.Registry, profile bool, log *zap.Logger) *http.Server {
	mux := http.NewServeMux()
	mux.Handle(apiPath, apiHandler)
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{ErrorLog: zap.NewStdLog(log), Registry: metrics}))
	mux.Handle("GET /healthz", answer(h.live))
	mux.Handle("GET /readyz", answer(h.ready))
	if profile {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{Handler: mux, Protocols: protocols, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes, ErrorLog: zap.NewStdLog(log)}
}
