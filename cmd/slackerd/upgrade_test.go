package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestUpgrade replaces the program of a server under clients with connections
// that do not connect again, over TCP and a unix socket: nothing fails, and what
// was answered is there. The process stays the same.
func TestUpgrade(t *testing.T) {
	dir := shortDir(t)
	p := startServer(t, command(t, serveArgs(filepath.Join(dir, "data"), "--nbd-listen", unixAddr(dir, "nbd.sock"))...))
	p.create("v")
	answered := make([]uint64, killWriters*killBlocks)
	attempted := make([]uint64, len(answered))
	var stop atomic.Bool
	var wg sync.WaitGroup
	for w := range killWriters {
		c := p.dial("v")
		wg.Go(func() {
			defer func() { _ = c.Close() }()
			for i := uint64(1); !stop.Load(); i++ {
				if !writeNumber(c, w, i, answered, attempted) {
					t.Errorf("writer %d: %v", w, c.Err())
					return
				}
			}
		})
	}
	searches := strings.Count(p.text(), `"log ends"`)
	for n := 1; n <= 3; n++ {
		if err := p.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		p.awaitLog(`"upgraded"`, n)
	}
	stop.Store(true)
	wg.Wait()
	if n := strings.Count(p.text(), `"log ends"`); n != searches {
		t.Errorf("the new programs searched the rest of the log %d times, and were told where it ends", n-searches)
	}
	for line := range strings.Lines(p.text()) {
		if strings.Contains(line, `"upgraded"`) {
			t.Log(strings.TrimSpace(line))
		}
	}
	verifyAnswered(t, p, answered, attempted)
	if status := p.end(syscall.SIGTERM); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// awaitLog waits until a text is in the log for the nth time.
func (p *process) awaitLog(text string, n int) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); strings.Count(p.text(), text) < n; time.Sleep(time.Millisecond) {
		select {
		case <-p.done:
			p.t.Fatalf("the server ended:\n%s", p.text())
		default:
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("the log has no %s number %d after %v:\n%s", text, n, patience, p.text())
		}
	}
}

// TestUpgradeRefused keeps the running program where the new one would not
// start: here the configuration has been spoiled meanwhile.
func TestUpgradeRefused(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "slackerd.yaml")
	writeFile(t, file, "log:\n  level: info\n")
	p := startServer(t, command(t, serveArgs(filepath.Join(dir, "data"), "--config", file)...))
	p.create("v")
	c := p.dial("v")
	defer func() { _ = c.Close() }()
	writeFile(t, file, "log:\n  level: loud\n")
	if err := p.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	p.awaitLog("no upgrade", 1)
	want, got := pattern(1), make([]byte, len(pattern(1)))
	if err := c.WriteAt(context.Background(), want, 0, true); err != nil {
		t.Fatal(err)
	}
	if err := c.ReadAt(context.Background(), got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read: %v", err)
	}
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
