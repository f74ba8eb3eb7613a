package stack

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/stack/stacktest"
)

// need returns the programs, or skips.
func need(t *testing.T) Programs {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("skipped: wants root, to run containers")
	}
	programs, err := FindPrograms()
	if err != nil {
		t.Skip("skipped: ", err)
	}
	return programs
}

// pushBusybox pushes an image of one static program.
func pushBusybox(t *testing.T, r *Registry) string {
	t.Helper()
	ref, err := name.ParseReference(r.Addr() + "/busybox:latest")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, stacktest.Busybox(t)); err != nil {
		t.Fatal(err)
	}
	if got := r.Counts().Received; got < 100<<10 {
		t.Errorf("pushed an image of a megabyte, the proxy counted %d bytes", got)
	}
	return ref.Name()
}

func TestContainersRunAndNothingStays(t *testing.T) {
	programs := need(t)
	dir, err := os.MkdirTemp("", "stack") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	r, err := StartRegistry(t.Context(), RegistryOptions{Programs: programs, Dir: filepath.Join(dir, "registry")})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	ref := pushBusybox(t, r)
	there, missing := programs.Containerds()
	if len(missing) > 0 {
		t.Logf("containerds that are not installed: %v (scripts/stack.sh)", missing)
	}
	for _, v := range there {
		t.Run(string(v), func(t *testing.T) {
			c, err := StartContainerd(t.Context(), ContainerdOptions{Programs: programs, Version: v, Dir: filepath.Join(dir, string(v))})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Stop()
			runContainers(t, c, ref)
			pid := c.Process().Pid()
			c.Stop()
			if shims := shimsOf(c.Address); len(shims) > 0 {
				t.Errorf("shims %v run after Stop", shims)
			}
			if m := MountsBelow(dir); len(m) > 0 {
				t.Errorf("mounted after Stop: %v", m)
			}
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
				t.Errorf("containerd %d runs after Stop", pid)
			}
		})
	}
	if paths := r.ByPath(); len(paths) == 0 || !strings.Contains(paths[0].Path, "/blobs/") {
		t.Errorf("most was sent for %v, want a blob", paths)
	}
}

// runContainers runs one container to its end and leaves one running.
func runContainers(t *testing.T, c *Containerd, ref string) {
	t.Helper()
	ctx, id := t.Context(), "stack-"+filepath.Base(filepath.Dir(c.dir))
	if _, err := c.Ctr(ctx, "images", "pull", "--plain-http", ref); err != nil {
		t.Fatal(err)
	}
	out, err := c.Ctr(ctx, "run", "--rm", "--net-host", ref, id, "/bin/busybox", "echo", "hello")
	if err != nil || out != "hello\n" {
		t.Fatalf("run: got %q, %v, want hello", out, err)
	}
	if _, err := c.Ctr(ctx, "run", "-d", "--net-host", ref, id, "/bin/busybox", "sleep", "1000"); err != nil {
		t.Fatal(err)
	}
	if len(shimsOf(c.Address)) != 1 {
		t.Fatalf("shims: %v, want one", shimsOf(c.Address))
	}
}

func TestFailedStartTellsTheLog(t *testing.T) {
	_, err := StartProcess(t.Context(), Command{
		Name: "liar", Args: []string{"sh", "-c", "echo no such luck; exit 3"}, Log: filepath.Join(t.TempDir(), "log"),
		Ready: func(ctx context.Context) error { return answers(ctx, http.DefaultClient, "http://127.0.0.1:1/") },
	})
	if err == nil || !strings.Contains(err.Error(), "no such luck") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v, want the log and the status", err)
	}
}

func TestStopKillsWhatDoesNotListen(t *testing.T) {
	p, err := StartProcess(t.Context(), Command{
		Name: "deaf", Args: []string{"sh", "-c", "trap '' TERM; echo up; sleep 1000 & wait; wait"}, Log: filepath.Join(t.TempDir(), "log"),
		Ready: func(context.Context) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	for !bytes.Contains([]byte(p.LogTail()), []byte("up")) {
		time.Sleep(pollInterval)
	}
	children := childrenOf(p.Pid())
	p.Kill()
	for _, pid := range append(children, p.Pid()) {
		for deadline := time.Now().Add(60 * time.Second); runs(pid); time.Sleep(pollInterval) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d runs after Kill", pid)
			}
		}
	}
}

// runs tells whether a process is there and no zombie.
func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

func TestUnmountBelow(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("skipped: wants root, to mount")
	}
	dir := t.TempDir()
	for _, at := range []string{"a", "a/b"} { // b is on a
		at = filepath.Join(dir, at)
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("stack", at, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	if m := MountsBelow(dir); len(m) != 2 {
		t.Errorf("mounted: %v, want two", m)
	}
	unmountBelow(dir)
	if m := MountsBelow(dir); len(m) != 0 {
		t.Errorf("still mounted: %v", m)
	}
}

func TestSameFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	kept, copied, other := write("kept", "same"), write("copied", "same"), write("other", "another")
	for range 2 {
		if err := SameFile(kept, copied); err != nil {
			t.Fatal(err)
		}
	}
	a, err1 := os.Stat(kept)
	b, err2 := os.Stat(copied)
	if err1 != nil || err2 != nil || !os.SameFile(a, b) {
		t.Errorf("%v, %v: want one file", err1, err2)
	}
	if err := SameFile(kept, other); err == nil {
		t.Error("a file of another size is replaced")
	}
	if got, err := os.ReadFile(other); err != nil || string(got) != "another" {
		t.Errorf("the other file has %q, %v", got, err)
	}
}
