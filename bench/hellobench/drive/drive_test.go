package drive

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slackerd/slacker/bench/hellobench/catalog"
	"github.com/slackerd/slacker/bench/hellobench/link"
	"github.com/slackerd/slacker/stack"
	"github.com/slackerd/slacker/stack/stacktest"
)

func TestMain(m *testing.M) {
	Enter()
	os.Exit(m.Run())
}

// newTestBed makes a bed with our programs, as far as the machine allows.
func newTestBed(t *testing.T) *Bed {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("skipped: wants root, to make namespaces and mounts")
	}
	programs, err := stack.FindPrograms()
	if err != nil {
		t.Skip("skipped: ", err)
	}
	for _, tool := range []string{"qemu-nbd", "qemu-storage-daemon", "nbdcopy"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("skipped: ", err)
		}
	}
	bin := t.TempDir()
	for _, p := range []string{"slackerd", "slackerctl", "slacker-client"} {
		if out, err := exec.Command("go", "build", "-o", filepath.Join(bin, p), "../../../cmd/"+p).CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v: %s", p, err, out)
		}
	}
	b, err := NewBed(t.Context(), BedOptions{Link: link.Unlimited, Cache: t.TempDir(), Programs: programs, Bin: bin, Version: stack.Debian, Slots: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		for _, ns := range append(b.made, b.Link.Server, b.Link.Worker) {
			if _, err := os.Stat("/run/netns/" + string(ns)); err == nil {
				t.Errorf("namespace %s is left", ns)
			}
		}
	})
	return b
}

// pushBusybox pushes an image of busybox.
func pushBusybox(t *testing.T, b *Bed) { pushBusyboxAs(t, b, "busybox") }

func pushBusyboxAs(t *testing.T, b *Bed, name string) {
	t.Helper()
	ref, err := Ref(b.Registry, "", name)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, stacktest.Busybox(t), Remote(t.Context(), b.Link.Server)...); err != nil {
		t.Fatal(err)
	}
}

// The tasks that every driver has to do.
var tasks = map[string]catalog.Task{
	"a command": {Args: []string{"echo", "hello"}, Output: "hello"},
	"a program on standard input, with a file": {
		Args: []string{"sh"}, Stdin: "sh /src/hello.sh\n", Mount: "/src", Files: map[string]string{"hello.sh": "echo hel'lo'"}, Output: "hello",
	},
	"a server that prints": {Args: []string{"sh", "-c", "echo up; exec busybox sleep 1000"}, Ready: "up"},
	"a server that answers": {
		Args: []string{"busybox", "httpd", "-f", "-p", "127.0.0.1:80", "-h", "/src"}, Mount: "/src", Files: map[string]string{"index.html": "hello"}, URL: "http://127.0.0.1/",
	},
}

func TestDrivers(t *testing.T) {
	b := newTestBed(t)
	pushBusybox(t, b)
	for _, d := range []Driver{NewCopy(b), NewQcow2(b), NewSlacker(b)} {
		t.Run(d.Name(), func(t *testing.T) {
			if err := d.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			defer d.Stop()
			before, err := b.Link.Counts()
			if err != nil {
				t.Fatal(err)
			}
			for name, task := range tasks {
				runTask(t, b, d, name, task)
			}
			sideBySide(t, b, d)
			failsAsItShould(t, b, d)
			after, err := b.Link.Counts()
			if got := after.Sub(before).ToWorker; err != nil || got < 100<<10 {
				t.Errorf("%d bytes came over the link, %v, want at least some of busybox", got, err)
			}
			if left := stack.MountsBelow(b.dir); len(left) > 0 {
				t.Errorf("still mounted: %v", left)
			}
		})
	}
}

// TestKeepsFewBases wants a driver that keeps some images to let go of the one that
// was not used for longest, and to make it again.
func TestKeepsFewBases(t *testing.T) {
	b := newTestBed(t)
	d := NewQcow2(b).(*qcow2Driver)
	d.most = 2
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer d.Stop()
	var all []Image
	for _, name := range []string{"one", "two", "three"} {
		pushBusyboxAs(t, b, name)
		i, err := b.Lookup(t.Context(), name, tasks["a command"])
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Prepare(t.Context(), i); err != nil {
			t.Fatal(err)
		}
		all = append(all, i)
	}
	for _, n := range []int{0, 1, 0, 2} { // two goes for three, since one was used again
		if err := Keep(t.Context(), d, all[n]); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(d.bases(), "*"))
	if err != nil || len(files) != 2 || len(d.servers) != 2 || d.servers["two"] != nil {
		t.Errorf("%v, %v, servers of %v: want one and three", files, err, d.recent)
	}
	if _, err := d.Run(t.Context(), all[1], "two"); err == nil || !strings.Contains(err.Error(), "not kept") {
		t.Errorf("run of what is not kept: %v", err)
	}
	if err := Keep(t.Context(), d, all[1]); err != nil {
		t.Fatal(err)
	}
	s, err := d.Run(t.Context(), all[1], "two")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.End(t.Context()); err != nil {
		t.Error(err)
	}
	d.Stop()
	if files, err := filepath.Glob(filepath.Join(d.bases(), "*")); err != nil || len(files) > 0 {
		t.Errorf("left: %v, %v", files, err)
	}
}

func runTask(t *testing.T, b *Bed, d Driver, name string, task catalog.Task) {
	t.Helper()
	i, err := b.Lookup(t.Context(), "busybox", task)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Prepare(t.Context(), i), Keep(t.Context(), d, i)); err != nil {
		t.Fatal(err)
	}
	if err := d.Pull(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	s, err := d.Run(t.Context(), i, "test-"+d.Name())
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if len(s.Phases) < 2 || s.Total() <= 0 {
		t.Errorf("%s: phases %v", name, s.Phases)
	}
	if task.Server() {
		if out, err := s.Exec(t.Context(), "/bin/busybox", "ls", "/"); err != nil || !strings.Contains(out, "bin") || strings.Contains(out, "boot") {
			t.Errorf("%s: ls / in it: %q, %v", name, out, err)
		}
	}
	if err := s.End(t.Context()); err != nil {
		t.Errorf("%s: end: %v", name, err)
	}
	if err := d.Forget(t.Context(), i); err != nil {
		t.Errorf("%s: forget: %v", name, err)
	}
}

// sideBySide ends a task while a later one runs: nothing of the later one may keep
// the disk of the first busy.
func sideBySide(t *testing.T, b *Bed, d Driver) {
	t.Helper()
	i, err := b.Lookup(t.Context(), "busybox", tasks["a server that prints"])
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Pull(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	var all []*Started
	for n := range 2 {
		s, err := d.Run(t.Context(), i, fmt.Sprintf("side-%s-%d", d.Name(), n))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	for n, s := range all {
		if err := s.End(t.Context()); err != nil {
			t.Errorf("end of task %d: %v", n, err)
		}
	}
}

// failsAsItShould runs tasks that do not say hello.
func failsAsItShould(t *testing.T, b *Bed, d Driver) {
	t.Helper()
	for want, task := range map[string]catalog.Task{
		`want "hello"`:  {Args: []string{"echo", "good day"}, Output: "hello"},
		"status 3":      {Args: []string{"sh", "-c", "echo hello; exit 3"}, Output: "hello"},
		"server ended":  {Args: []string{"echo", "bye"}, Ready: "up"},
		"is not found ": {Args: []string{"nonesuch"}, Output: "hello"},
	} {
		i, err := b.Lookup(t.Context(), "busybox", task)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Pull(t.Context(), i); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Run(t.Context(), i, "fail-"+d.Name()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", task.Args, err, want)
		}
	}
}
