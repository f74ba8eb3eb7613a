package main

import (
	"bytes"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// What strangers can make the HTTP server say is logged httpLogBurst times in
// httpLogWindow. Whoever may connect could fill a disk with logs otherwise.
const (
	httpLogWindow = time.Minute
	httpLogBurst  = 5
)

// httpLog takes what net/http logs, a line for each connection that goes wrong.
type httpLog struct {
	log *zap.Logger
	now func() time.Time

	mu    sync.Mutex
	until time.Time // end of the window
	lines int       // in it, left out ones too
}

func (h *httpLog) Write(p []byte) (int, error) {
	text := strings.TrimPrefix(string(bytes.TrimSpace(p)), "http: ")
	h.mu.Lock()
	left := 0
	if now := h.now(); !now.Before(h.until) {
		left = max(h.lines-httpLogBurst, 0)
		h.until, h.lines = now.Add(httpLogWindow), 0
	}
	h.lines++
	said := h.lines <= httpLogBurst
	h.mu.Unlock()
	if said {
		h.log.Info("a connection to the API went wrong", zap.String("what", text), zap.Int("left_out_before", left))
	}
	return len(p), nil
}
