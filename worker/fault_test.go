package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/block"
)

// TestEveryStepFails fails step N of an attach for N = 0, 1, ... until it
// goes through, and checks each time that nothing is left.
func TestEveryStepFails(t *testing.T) {
	needFuse(t)
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	c := testConfig(t, f)
	planned := errors.New("planned fault")
	for n := 0; ; n++ {
		count, name := 0, ""
		c.fault = func(step string) error {
			if count++; count == n+1 {
				name = step
				return planned
			}
			return nil
		}
		dir := filepath.Join(t.TempDir(), "m")
		_, err := testWorker(t, c).Attach(t.Context(), "v", fuseOptions(dir))
		if err == nil {
			if n < 8 {
				t.Fatalf("only %d steps", n)
			}
			break
		}
		if !errors.Is(err, planned) {
			t.Fatalf("step %q: %v", name, err)
		}
		nothingLeft(t, f, c.StateDir)
		if _, err := os.Stat(dir); !errGone(err) {
			t.Errorf("step %q left the mount directory", name)
		}
		f.blank("v")
	}
	c.fault = func(string) error { return nil }
	_, err := testWorker(t, c).Detach(t.Context(), "v", false)
	must(t, err)
}

// attachAndDie is the attach that a test has killed at step n.
func attachAndDie(url, stateDir, dir, n string) error {
	c, err := DefaultConfig()
	if err != nil {
		return err
	}
	if c.API, err = api.NewClient(url); err != nil {
		return err
	}
	c.Server, c.StateDir = url, stateDir
	count := 0
	c.fault = func(string) error {
		if count++; fmt.Sprint(count) == n {
			return unix.Kill(os.Getpid(), unix.SIGKILL)
		}
		return nil
	}
	w, err := New(c)
	if err != nil {
		return err
	}
	_, err = w.Attach(context.Background(), "v", fuseOptions(dir))
	return err
}

// TestKilledAtEveryStep kills attach before step N for N = 1, 2, ...; then
// detach, clean or another attach must find what is left.
func TestKilledAtEveryStep(t *testing.T) {
	needFuse(t)
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	c := testConfig(t, f)
	w := testWorker(t, c)
	for n := 1; ; n++ {
		dir := filepath.Join(t.TempDir(), "m")
		out, err := exec.Command(c.Executable, "attach-and-die", f.url, c.StateDir, dir, fmt.Sprint(n)).CombinedOutput()
		finished := err == nil
		if !finished && !strings.Contains(err.Error(), "killed") {
			t.Fatalf("step %d: %v: %s", n, err, out)
		}
		switch n % 3 {
		case 0:
			_, err = w.Clean(t.Context())
			if finished && err == nil {
				_, err = w.Detach(t.Context(), "v", false)
			}
		case 1:
			if _, err = w.Attach(t.Context(), "v", fuseOptions(dir)); err == nil {
				must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600))
				_, err = w.Detach(t.Context(), dir, false)
			}
		case 2:
			_, err = w.Detach(t.Context(), "v", false)
			if block.Is(err, block.NotFound) {
				err = nil
			}
		}
		if err != nil {
			t.Fatalf("killed at step %d: %v", n, err)
		}
		// An agent that was not told to begin when its attach was killed ends by itself.
		_ = awaitFor(t.Context(), time.Minute, func() (bool, error) { return len(leftovers(t, c.StateDir)) == 0, nil })
		nothingLeft(t, f, c.StateDir)
		if finished {
			if n < 8 {
				t.Fatalf("only %d steps", n)
			}
			return
		}
		f.blank("v") // a half-made file system, if any
	}
}
