package main

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// loseMap removes the extent map and has the program make it anew, first for the
// look of it.
func (l *load) loseMap(dir string) {
	l.t.Helper()
	if _, stderr, status := runCommand(l.t, "salvage", "--data-dir", dir); status == 0 || !strings.Contains(stderr, "map") {
		l.t.Errorf("salvage of a store that has its map: status %d\n%s", status, stderr)
	}
	if err := os.RemoveAll(filepath.Join(dir, "map")); err != nil {
		l.t.Fatal(err)
	}
	if _, stderr, status := runCommand(l.t, serveArgs(dir)...); status == 0 || !strings.Contains(stderr, "salvage") {
		l.t.Errorf("serve without a map: status %d, want a hint at salvage\n%s", status, stderr)
	}
	var dry, real salvageJSON
	for _, r := range []struct {
		j    *salvageJSON
		args []string
	}{{&dry, []string{"salvage", "--data-dir", dir, "--json", "--dry-run"}}, {&real, []string{"salvage", "--data-dir", dir, "--json"}}} {
		stdout, stderr, status := runCommand(l.t, r.args...)
		if err := json.Unmarshal([]byte(stdout), r.j); err != nil || status != 0 {
			l.t.Fatalf("%v: status %d, %v\n%s%s", r.args, status, err, stdout, stderr)
		}
	}
	if dry.DryRun = false; dry.Volumes != real.Volumes || dry.Snapshots != real.Snapshots || dry.Blocks != real.Blocks || real.Volumes < loadVolumes {
		l.t.Errorf("salvage says %+v before, %+v in doing it", dry, real)
	}
	l.t.Logf("salvaged %d volumes, %d snapshots, %d blocks", real.Volumes, real.Snapshots, real.Blocks)
}

// TestSalvageAfterKill loses the map of a server that was killed under load, and
// of one that was stopped: what the program makes anew holds, by name and block,
// what was answered (V9).
func TestSalvageAfterKill(t *testing.T) {
	dir := filepath.Join(shortDir(t), "data")
	l := &load{t: t, rng: rand.New(rand.NewPCG(*loadSeed, 2)), of: map[string]*shape{}}
	l.p = startServer(t, command(t, serveArgs(dir)...))
	for i := range loadVolumes {
		l.p.create(writtenTo(i))
		l.of[writtenTo(i)] = &shape{blocks: make([]span, loadBlocks)}
	}
	for range 2 {
		l.round(loadWrites)
		l.loseMap(dir)
		l.p = startServer(t, command(t, serveArgs(dir)...))
		l.verify()
	}
	if status := l.p.end(syscall.SIGTERM); status != 0 {
		t.Fatalf("stopped with status %d:\n%s", status, l.p.text())
	}
	l.loseMap(dir)
	if stdout, stderr, status := runCommand(t, "check", "--data-dir", dir, "--data"); status != 0 {
		t.Fatalf("check: status %d\n%s%s", status, stdout, stderr)
	}
	l.p = startServer(t, command(t, serveArgs(dir)...))
	l.verify()
}
