package rig

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

var attachRounds = flag.Int("rig.attach", 0, "how often to time an attach by the kernel's NBD client (make bench-attach-rig)")

// TestAttachSteps times clone, attach and mount with the kernel's NBD client by
// step, with one connection and with four. Everything runs in the guest, under
// software emulation: only the proportions say something.
func TestAttachSteps(t *testing.T) {
	if *attachRounds == 0 {
		t.Skip("make bench-attach-rig runs it")
	}
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-o", dir, "../bench/attach", "../cmd/slackerctl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var files []string
	for _, program := range []string{filepath.Join(dir, "attach"), filepath.Join(dir, "slackerctl"), filepath.Join(bin, "slackerd")} {
		files = append(files, program+":/usr/bin/"+filepath.Base(program))
	}
	for _, connections := range []string{"1", "4"} {
		bootWith(t, files, "attach", strconv.Itoa(*attachRounds), connections).pass()
	}
}
