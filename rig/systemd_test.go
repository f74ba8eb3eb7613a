package rig

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var systemdWanted = flag.Bool("rig.systemd", false, "test the units too, with this machine's systemd in the guest (make rig-systemd)")

// systemdFiles is what a systemd of its own needs to be the guest's first process
// and to start services: nothing that would look at the guest's files or devices.
var systemdFiles = []string{
	"/lib/systemd/systemd", "/lib/systemd/systemd-executor", "/lib/systemd/systemd-journald", "/bin/systemctl", "/bin/journalctl",
	"/lib/systemd/system/systemd-journald.service", "/lib/systemd/system/systemd-journald.socket", "/lib/systemd/system/systemd-journald-dev-log.socket",
	"/lib/systemd/system/*.target",
}

// TestSystemd installs everything with make install and runs slackerd by its units
// under a real systemd: socket activation, readiness, reload, upgrade, watchdog and
// restarts, with a file system on the kernel's NBD client that is written to all the
// time.
func TestSystemd(t *testing.T) {
	if !*systemdWanted {
		t.Skip("make rig-systemd runs it")
	}
	dir := t.TempDir()
	root, next := filepath.Join(dir, "root"), filepath.Join(dir, "slackerd")
	for _, args := range [][]string{
		{"make", "-C", "..", "install", "DESTDIR=" + root, "VERSION=installed"},
		{"go", "build", "-trimpath", "-ldflags", "-X main.version=next", "-o", next, "../cmd/slackerd"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	files := []string{next + ":/next/slackerd", "guest/systemd.service:/etc/systemd/system/rig.service",
		"guest/slackerd.conf:/etc/systemd/system/slackerd.service.d/rig.conf"}
	for _, pattern := range systemdFiles {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 && pattern != "/lib/systemd/systemd-executor" { // newer ones have it
			t.Fatalf("%s: %v: want systemd installed", pattern, err)
		}
		for _, p := range paths {
			files = append(files, p+":"+p)
		}
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, fmt.Sprintf("%s:%s", path, path[len(root):]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	bootWith(t, files, "systemd").pass()
}
