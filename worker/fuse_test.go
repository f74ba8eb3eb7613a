package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/block"
)

const testVolumeBytes = 48 << 20

func needFuse(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for mounts and loop devices")
	}
	if err := (fuseDriver{}).check(); err != nil {
		t.Skip(err)
	}
	if _, err := checkMkfs(); err != nil {
		t.Skip(err)
	}
}

// testConfig makes a worker with a state directory of its own, and checks at
// the end of the test that nothing is left.
func testConfig(t *testing.T, f *fakeServer) Config {
	t.Helper()
	c, err := DefaultConfig()
	if err != nil {
		t.Fatal(err)
	}
	c.API, err = api.NewClient(f.url)
	if err != nil {
		t.Fatal(err)
	}
	c.Server, c.StateDir = f.url, filepath.Join(t.TempDir(), "state")
	c.DeadTimeout = 5 * time.Second
	t.Cleanup(func() {
		nothingLeft(t, f, c.StateDir)
		if w, err := New(c); err == nil && t.Failed() {
			states, _, _ := w.store.all()
			for _, s := range states {
				words, _ := os.ReadFile(w.store.path(keyOf(s.Target), ".log"))
				t.Logf("log of the agent of %s:\n%s", s.Target, words)
				_, err := w.Detach(context.Background(), s.Target, true)
				t.Logf("cleared %s: %v", s.Target, err)
			}
		}
	})
	return c
}

func testWorker(t *testing.T, c Config) *Worker {
	t.Helper()
	w, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// nothingLeft checks kernel, processes, state directory and server.
func nothingLeft(t *testing.T, f *fakeServer, stateDir string) {
	t.Helper()
	left := leftovers(t, stateDir)
	if n := f.count(); n > 0 {
		left = append(left, fmt.Sprintf("%d attachments at the server", n))
	}
	if len(left) > 0 {
		t.Errorf("left behind: %s", strings.Join(left, ", "))
	}
}

func leftovers(t *testing.T, stateDir string) (left []string) {
	t.Helper()
	entries, err := os.ReadDir(stateDir)
	if err != nil && !errGone(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".lock") && e.Name() != "cache" {
			left = append(left, "file "+e.Name())
		}
	}
	list, err := mounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		if strings.HasPrefix(m.dir, filepath.Dir(stateDir)) {
			left = append(left, "mount "+m.dir)
		}
	}
	backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range backing {
		b, err := os.ReadFile(name)
		ours := slices.ContainsFunc([]string{"v", "team/v", "v@s"}, func(target string) bool {
			return strings.Contains(string(b), filepath.Base(store{stateDir}.fuseFile(target)))
		})
		if err == nil && ours {
			left = append(left, "loop device "+name)
		}
	}
	cmdlines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range cmdlines {
		b, err := os.ReadFile(name)
		if err == nil && (bytes.Contains(b, []byte("fuse-daemon\x00"+stateDir)) || bytes.Contains(b, []byte("standby\x00"+stateDir))) {
			left = append(left, "process "+name)
		}
	}
	return left
}

func fuseOptions(mount string) AttachOptions {
	return AttachOptions{Driver: driverFuse, MountDir: mount, Mkfs: mount != ""}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFuseEndToEnd(t *testing.T) {
	needFuse(t)
	f := newFakeServer(t, map[string]uint64{"team/v": testVolumeBytes})
	c := testConfig(t, f)
	c.Verbose = func(step string, took time.Duration) { t.Logf("%9v %s", took.Round(10*time.Microsecond), step) }
	w := testWorker(t, c)
	dir := filepath.Join(t.TempDir(), "mnt")
	a, err := w.Attach(t.Context(), "team/v", fuseOptions(dir))
	must(t, err)
	data := make([]byte, 8<<20)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(data)
	must(t, os.WriteFile(filepath.Join(dir, "data"), data, 0o600))
	again, err := w.Attach(t.Context(), "team/v", fuseOptions(dir))
	must(t, err)
	if !again.Already || again.Device != a.Device || again.AttachmentID != a.AttachmentID {
		t.Fatalf("attached again: %+v, first %+v", again, a)
	}
	if _, err := w.Attach(t.Context(), "team/v", AttachOptions{Driver: driverFuse, ReadOnly: true}); !block.Is(err, block.Exists) {
		t.Fatalf("attach in another way: %v", err)
	}
	rows, err := w.List(t.Context())
	must(t, err)
	if len(rows) != 1 || rows[0].Condition != ConditionOK || !slices.Equal(rows[0].Mounts, []string{dir}) || rows[0].Device != a.Device {
		t.Fatalf("list: %+v", rows)
	}
	_, err = w.Detach(t.Context(), dir, false)
	must(t, err)
	if _, err := os.Stat(dir); !errGone(err) {
		t.Fatalf("the mount directory that attach made is still there: %v", err)
	}
	nothingLeft(t, f, c.StateDir)

	_, err = w.Attach(t.Context(), "team/v", fuseOptions(dir)) // --mkfs must not touch it
	must(t, err)
	got, err := os.ReadFile(filepath.Join(dir, "data"))
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("after detach and attach the file differs: %v", err)
	}
	must(t, exec.Command("fstrim", dir).Run())
	_, err = w.Detach(t.Context(), a.Target, false)
	must(t, err)
}

func TestReadOnlySnapshotWithDirtyJournal(t *testing.T) {
	needFuse(t)
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	w := testWorker(t, testConfig(t, f))
	dir, ro := filepath.Join(t.TempDir(), "rw"), filepath.Join(t.TempDir(), "ro")
	_, err := w.Attach(t.Context(), "v", fuseOptions(dir))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "x"), []byte("x"), 0o600))
	must(t, exec.Command("sync", "-f", dir).Run())
	a, err := w.Attach(t.Context(), "v@s", AttachOptions{Driver: driverFuse, ReadOnly: true, MountDir: ro})
	must(t, err)
	if err := os.WriteFile(filepath.Join(ro, "y"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Fatalf("write to a read-only mount: %v", err)
	}
	if file, err := os.OpenFile(a.Device, os.O_WRONLY, 0); err == nil {
		if _, err := file.Write(make([]byte, 512)); err == nil {
			t.Fatal("a read-only device took a write")
		}
		_ = file.Close()
	}
	for _, what := range []string{a.Device, dir} {
		_, err = w.Detach(t.Context(), what, false)
		must(t, err)
	}
}

func TestMkfsSparesData(t *testing.T) {
	needFuse(t)
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	w := testWorker(t, testConfig(t, f))
	a, err := w.Attach(t.Context(), "v", fuseOptions(""))
	must(t, err)
	file, err := os.OpenFile(a.Device, os.O_WRONLY, 0)
	must(t, err)
	_, err = file.WriteAt([]byte("precious"), 12345)
	must(t, errors.Join(err, file.Sync(), file.Close()))
	_, err = w.Detach(t.Context(), "v", false)
	must(t, err)
	if _, err := w.Attach(t.Context(), "v", fuseOptions(filepath.Join(t.TempDir(), "m"))); !block.Is(err, block.Exists) {
		t.Fatalf("mkfs over data: %v", err)
	}
}

// TestUnfinishedMkfs leaves what a mkfs that was cut off leaves: rubbish, and a
// state that says so. It may be written over only while nobody else has had
// the volume.
func TestUnfinishedMkfs(t *testing.T) {
	needFuse(t)
	for _, inBetween := range []bool{false, true} {
		f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
		c := testConfig(t, f)
		w := testWorker(t, c)
		a, err := w.Attach(t.Context(), "v", fuseOptions(""))
		must(t, err)
		file, err := os.OpenFile(a.Device, os.O_WRONLY, 0)
		must(t, err)
		_, err = file.WriteAt([]byte("half a file system"), 4096)
		must(t, errors.Join(err, file.Sync(), file.Close()))
		s, err := w.store.load("v")
		must(t, err)
		s.Phase = phaseMkfs
		must(t, w.store.save(s))
		if inBetween {
			other := testWorker(t, testConfig(t, f))
			o := fuseOptions("")
			o.Takeover = true
			_, err := other.Attach(t.Context(), "v", o)
			must(t, err)
			_, err = other.Detach(t.Context(), "v", false)
			must(t, err)
		}
		_, err = w.Attach(t.Context(), "v", fuseOptions(filepath.Join(t.TempDir(), "m")))
		if inBetween {
			if !block.Is(err, block.Exists) {
				t.Fatalf("mkfs over what another worker may have written: %v", err)
			}
			continue
		}
		must(t, err)
		_, err = w.Detach(t.Context(), "v", false)
		must(t, err)
	}
}

// TestStateDirectoryLost attaches after a reboot, so to speak: the server still
// has this worker's attachment, of which nothing is written down here.
func TestStateDirectoryLost(t *testing.T) {
	needFuse(t)
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	w := testWorker(t, testConfig(t, f))
	orphan := &state{Target: "v", Worker: w.Worker}
	must(t, w.attachAtServer(t.Context(), orphan, false))
	rows, err := w.List(t.Context())
	if err != nil || len(rows) != 1 || rows[0].Condition != ConditionStale {
		t.Fatalf("list: %+v, %v", rows, err)
	}
	a, err := w.Attach(t.Context(), "v", fuseOptions(""))
	must(t, err)
	if a.AttachmentID == orphan.AttachmentID || f.count() != 1 {
		t.Fatalf("attachment %s after %s, %d at the server", a.AttachmentID, orphan.AttachmentID, f.count())
	}
	_, err = w.Detach(t.Context(), a.Device, false)
	must(t, err)
	must(t, w.attachAtServer(t.Context(), orphan, false))
	cleaned, err := w.Clean(t.Context())
	if err != nil || !slices.Equal(cleaned, []string{"v"}) {
		t.Fatalf("clean: %v, %v", cleaned, err)
	}
}

func TestBusyDetachAndForce(t *testing.T) {
	needFuse(t)
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	w := testWorker(t, testConfig(t, f))
	dir := filepath.Join(t.TempDir(), "m")
	_, err := w.Attach(t.Context(), "v", fuseOptions(dir))
	must(t, err)
	open, err := os.Create(filepath.Join(dir, "open"))
	must(t, err)
	_, err = w.Detach(t.Context(), "v", false)
	if !block.Is(err, block.Busy) || !strings.Contains(err.Error(), fmt.Sprintf("(%d)", os.Getpid())) {
		t.Fatalf("detach of a busy mount: %v", err)
	}
	if rows, err := w.List(t.Context()); err != nil || rows[0].Condition != ConditionOK {
		t.Fatalf("after a refused detach: %+v, %v", rows, err)
	}
	_, err = w.Detach(t.Context(), "v", true)
	must(t, err)
	_ = open.Close() // its file system has lost its device
}

func TestTakenOver(t *testing.T) {
	needFuse(t)
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	one, two := testWorker(t, testConfig(t, f)), testWorker(t, testConfig(t, f))
	_, err := one.Attach(t.Context(), "v", fuseOptions(""))
	must(t, err)
	if _, err := two.Attach(t.Context(), "v", fuseOptions("")); !block.Is(err, block.Busy) || !strings.Contains(err.Error(), one.Worker) {
		t.Fatalf("attached elsewhere: %v", err)
	}
	o := fuseOptions("")
	o.Takeover = true
	_, err = two.Attach(t.Context(), "v", o)
	must(t, err)
	rows, err := one.List(t.Context())
	if err != nil || rows[0].Condition != ConditionStale {
		t.Fatalf("list of the first worker: %+v, %v", rows, err)
	}
	cleaned, err := one.Clean(t.Context())
	if err != nil || !slices.Equal(cleaned, []string{"v"}) {
		t.Fatalf("clean: %v, %v", cleaned, err)
	}
	_, err = two.Detach(t.Context(), "v", false)
	must(t, err)
}

func TestErrorsAreClear(t *testing.T) {
	needFuse(t)
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	c := testConfig(t, f)
	w := testWorker(t, c)
	check := func(err error, kind block.Kind, words ...string) {
		t.Helper()
		if !block.Is(err, kind) {
			t.Errorf("error %v, want kind %v", err, kind)
			return
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("error %q lacks %q", err, word)
			}
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("error %q has several lines", err)
		}
	}
	_, err := w.Attach(t.Context(), "nope", fuseOptions(""))
	check(err, block.NotFound, "nope")
	_, err = w.Attach(t.Context(), "a@b@c", fuseOptions(""))
	check(err, block.Invalid)
	_, err = w.Attach(t.Context(), "v", AttachOptions{Driver: "magic", MountDir: "rel", Mkfs: true, ReadOnly: true, Connections: 99})
	check(err, block.Invalid, "magic", "rel", "mkfs", "connections")
	_, err = w.Detach(t.Context(), "v", false)
	check(err, block.NotFound, "not attached")
	_, err = w.Detach(t.Context(), "/dev/null", false)
	check(err, block.NotFound)
	_, err = w.Attach(t.Context(), "v", AttachOptions{Driver: driverFuse, MountDir: filepath.Join(t.TempDir(), "m")})
	check(err, block.Invalid, "--mkfs")
	_, err = w.Attach(t.Context(), "v", AttachOptions{Driver: driverFuse, MountDir: "/proc", Mkfs: true})
	check(err, block.Busy, "/proc")
	c.API, err = api.NewClient("http://127.0.0.1:1")
	must(t, err)
	_, err = testWorker(t, c).Attach(t.Context(), "v", fuseOptions(""))
	check(err, block.Unavailable, "127.0.0.1:1")
	unlock, err := w.store.lock("v")
	must(t, err)
	_, err = w.Attach(t.Context(), "v", fuseOptions(""))
	check(err, block.Busy, "just now")
	unlock()
}
