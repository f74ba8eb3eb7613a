package main

import (
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// upgradeSteps are all steps of an upgrade, of the old and of the new program.
var upgradeSteps = []string{"begin", "connections stopped", "store left", "program started", "configuration read",
	"map opened", "catalog read", "log opened", "log replayed", "store opened", "connections taken over"}

// TestKilledAtEveryStepOfAnUpgrade kills the server at each step of an upgrade
// under load: it is one process all the time, and the next server finds
// everything that was answered (D4).
func TestKilledAtEveryStepOfAnUpgrade(t *testing.T) {
	dir := filepath.Join(shortDir(t), "data")
	answered := make([]uint64, killWriters*killBlocks)
	attempted := make([]uint64, len(answered))
	for round, step := range upgradeSteps {
		cmd := command(t, serveArgs(dir)...)
		cmd.Env = append(cmd.Env, killAt+"="+step)
		p := startServer(t, cmd)
		if round == 0 {
			p.create("v")
		}
		verifyAnswered(t, p, answered, attempted)
		var wg sync.WaitGroup
		var count atomic.Int64
		enough := make(chan struct{})
		for w := range killWriters {
			c := p.dial("v")
			wg.Go(func() {
				defer func() { _ = c.Close() }() // the server is gone by then
				for i := uint64(1); writeNumber(c, w, uint64(round+1)<<32|i, answered, attempted); i++ {
					if count.Add(1) == killAfter/4 {
						close(enough)
					}
				}
			})
		}
		<-enough
		if status := p.end(syscall.SIGUSR2); status != -1 {
			t.Fatalf("killed at %q: exit status %d, want a death by a signal:\n%s", step, status, p.text())
		}
		wg.Wait()
	}
	p := startServer(t, command(t, serveArgs(dir)...))
	verifyAnswered(t, p, answered, attempted)
	if err := p.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	p.awaitLog(`"upgraded"`, 1)
	for _, step := range upgradeSteps[1:] {
		if !strings.Contains(p.text(), step+" ") {
			t.Errorf("an upgrade has no step %q:\n%s", step, p.text())
		}
	}
}
