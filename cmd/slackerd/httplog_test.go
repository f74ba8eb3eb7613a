package main

import (
	"fmt"
	"log"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestHTTPLogIsBounded: failed handshakes by the hundred make a few lines a minute,
// and the next window tells how many were left out.
func TestHTTPLogIsBounded(t *testing.T) {
	core, seen := observer.New(zap.InfoLevel)
	now := time.Unix(1000, 0)
	h := &httpLog{log: zap.New(core), now: func() time.Time { return now }}
	std := log.New(h, "", 0)
	for i := range 100 {
		std.Printf("http: TLS handshake error from 192.0.2.1:%d: EOF", i)
	}
	if n := seen.Len(); n != httpLogBurst {
		t.Errorf("%d lines in one window, want %d", n, httpLogBurst)
	}
	now = now.Add(httpLogWindow)
	std.Print("http: TLS handshake error from 192.0.2.1:100: EOF")
	last := seen.All()[seen.Len()-1].ContextMap()
	if want := "TLS handshake error from 192.0.2.1:100: EOF"; last["what"] != want || fmt.Sprint(last["left_out_before"]) != fmt.Sprint(100-httpLogBurst) {
		t.Errorf("the next window begins with %v, want %q and %d left out", last, want, 100-httpLogBurst)
	}
}
