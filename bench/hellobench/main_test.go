package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slackerd/slacker/bench/hellobench/measure"
	"github.com/slackerd/slacker/stack"
	"github.com/slackerd/slacker/stack/stacktest"
)

// buildAll builds hellobench and what it measures.
func buildAll(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("skipped: wants root, to make namespaces and mounts")
	}
	bin := t.TempDir()
	for _, p := range []string{"./../../cmd/slackerd", "./../../cmd/slackerctl", "./../../cmd/slacker-client", "."} {
		out := filepath.Join(bin, filepath.Base(p))
		if p == "." {
			out = filepath.Join(bin, "hellobench")
		}
		if text, err := exec.Command("go", "build", "-o", out, p).CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v: %s", p, err, text)
		}
	}
	return bin
}

// withBusybox makes a cache with one image in its registry.
func withBusybox(t *testing.T) string {
	t.Helper()
	programs, err := stack.FindPrograms()
	if err != nil {
		t.Skip("skipped: ", err)
	}
	cache := t.TempDir()
	r, err := stack.StartRegistry(t.Context(), stack.RegistryOptions{Programs: programs, Dir: filepath.Join(cache, "r"), Storage: filepath.Join(cache, "registry")})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	ref, err := name.ParseReference(r.Addr() + "/busybox:latest")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, stacktest.Busybox(t)); err != nil {
		t.Fatal(err)
	}
	return cache
}

// TestInterruptedRunGoesOn interrupts a run after its first measurement, wants
// nothing to be left, lets it go on, and writes its report.
func TestInterruptedRunGoesOn(t *testing.T) {
	bin, cache := buildAll(t), withBusybox(t)
	run := func() *exec.Cmd {
		return exec.Command(filepath.Join(bin, "hellobench"), "measure", "-cache", cache, "-bin", bin, "-name", "test",
			"-drivers", "slacker,copy", "-links", "1g", "-what", "cycle", "-rounds", "2", "busybox")
	}
	first := run()
	progress, err := first.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for lines := bufio.NewScanner(progress); lines.Scan(); {
		fmt.Fprintln(&said, lines.Text())
		if strings.Contains(lines.Text(), "[1/4]") {
			if err := first.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := first.Wait(); err == nil || !strings.Contains(said.String(), "canceled") || strings.Contains(said.String(), "[4/4]") {
		t.Fatalf("interrupted: %v, want it to end early and to say so:\n%s", err, &said)
	}
	nothingLeft(t, first.Process.Pid)
	log := filepath.Join(cache, "runs", "test", "records.jsonl")
	before, err := measure.ReadRecords(log)
	if err != nil || len(before) == 0 {
		t.Fatalf("%d records, %v, want at least one", len(before), err)
	}
	short := run()
	short.Args = slices.Insert(short.Args, 2, "-budget", "1ns")
	if out, err := short.CombinedOutput(); err != nil || !strings.Contains(string(out), "the time is over") {
		t.Fatalf("a run without time: %v: %s", err, out)
	}
	nothingLeft(t, short.Process.Pid)
	second := run()
	if out, err := second.CombinedOutput(); err != nil {
		t.Fatalf("second run: %v: %s", err, out)
	}
	nothingLeft(t, second.Process.Pid)
	after, err := measure.ReadRecords(log)
	if err != nil || len(after) != 4 {
		t.Fatalf("%d records, %v, want 4", len(after), err)
	}
	for n, r := range after {
		if n < len(before) && !r.At.Equal(before[n].At) {
			t.Errorf("record %d was measured again", n)
		}
		if r.Error != "" || r.Run <= 0 || r.Driver == "copy" && r.PullBytes < 1<<20 || r.Driver == "slacker" && (r.RunBytes < 100<<10 || r.Push <= 0 || r.Learned == nil || r.Learned.Run <= 0) {
			t.Errorf("record %d: %+v", n, r)
		}
	}
	writesReport(t, bin, cache)
}

func writesReport(t *testing.T, bin, cache string) {
	t.Helper()
	path := filepath.Join(cache, "report")
	out, err := exec.Command(filepath.Join(bin, "hellobench"), "report", "-cache", cache, "-name", "test", "-out", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "| link 1g |") {
		t.Errorf("report: %v: %s", err, out)
	}
	if page, err := os.ReadFile(path + ".html"); err != nil || !strings.Contains(string(page), "busybox") {
		t.Errorf("the page: %v", err)
	}
}

// nothingLeft wants no namespace, directory or mount of a run.
func nothingLeft(t *testing.T, pid int) {
	t.Helper()
	for _, pattern := range []string{fmt.Sprintf("/run/netns/hb%d-*", pid), filepath.Join(os.TempDir(), fmt.Sprintf("hb%d-*", pid))} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), fmt.Sprintf("/hb%d-", pid)) {
		t.Errorf("mounts are left:\n%s", mounts)
	}
}
