package snapshotter

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/boottrace"
	"github.com/slackerd/slacker/worker"
)

// bytesInMemory is how much of a file is in the page cache.
func bytesInMemory(t *testing.T, path string) (n int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOATIME, 0)
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	must(t, err)
	defer func() { must(t, f.Close()) }()
	info, err := f.Stat()
	must(t, err)
	for _, r := range inMemory(int(f.Fd()), info.Size()) {
		n += int64(r.Count) * boottrace.PageBytes
	}
	return n
}

// TestSpareIsWarm: what a container has read of its root is in memory in the spare
// that the next one gets, and nothing else is. What is no regular file is left alone.
func TestSpareIsWarm(t *testing.T) {
	needDevices(t)
	f := startServer(t)
	s := newSnapshotter(t, f, nil)
	top, err := image(s, "image", []string{chainID("warm")})
	must(t, err)
	content := bytes.Repeat([]byte("x"), 1<<20)
	ms, err := s.Prepare(t.Context(), "writer", top)
	must(t, err)
	must(t, mounted(ms, func(dir string) error {
		return errors.Join(os.Mkdir(filepath.Join(dir, "usr"), 0o755), os.WriteFile(filepath.Join(dir, "usr", "read"), content, 0o644),
			os.WriteFile(filepath.Join(dir, "usr", "unread"), content, 0o644), unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644))
	}))
	must(t, s.Commit(t.Context(), "filled", "writer"))
	ms, err = s.Prepare(t.Context(), "first", "filled")
	must(t, err)
	must(t, mounted(ms, func(dir string) error {
		fifo, err := unix.Open(filepath.Join(dir, "fifo"), unix.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		return errors.Join(exec.Command("cat", filepath.Join(dir, "usr", "read")).Run(), unix.Close(fifo))
	}))
	r, err := s.store.get("filled")
	must(t, err)
	await(t, "a warm spare", func() bool {
		_, spare := s.stones.find(r.Place)
		return spare != nil && spare.dir != "" && bytesInMemory(t, filepath.Join(spare.dir, "usr", "read")) == int64(len(content))
	})
	_, spare := s.stones.find(r.Place)
	if n := bytesInMemory(t, filepath.Join(spare.dir, "usr", "unread")); n != 0 {
		t.Errorf("%d bytes are in memory of a file that nobody has read", n)
	}
	ms, err = s.Prepare(t.Context(), "second", "filled")
	must(t, err)
	if ms[0].Source != spare.dir {
		t.Errorf("the second container is at %s, not at the spare's %s", ms[0].Source, spare.dir)
	}
	must(t, mounted(ms, func(dir string) error {
		got, err := os.ReadFile(filepath.Join(dir, "usr", "read"))
		if err == nil && !bytes.Equal(got, content) {
			err = errors.New("it reads something else")
		}
		return err
	}))
}

// TestAnotherWorkerIsWarm: what a container has read of its root is in memory for the
// first one on a worker that never saw the image, and its files are as if nobody had
// read them. What the container has made is not told to anybody.
func TestAnotherWorkerIsWarm(t *testing.T) {
	needDevices(t)
	f := startServer(t)
	one := newSnapshotter(t, f, nil)
	content := bytes.Repeat([]byte("x"), 1<<20)
	labels := snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: chainID("told")})
	ms, err := one.Prepare(t.Context(), "extract", "", labels)
	must(t, err)
	must(t, mounted(ms, func(dir string) error {
		return errors.Join(os.WriteFile(filepath.Join(dir, "read"), content, 0o644), os.WriteFile(filepath.Join(dir, "unread"), content, 0o644))
	}))
	must(t, one.Commit(t.Context(), "image", "extract", labels))
	// The first is on the stepping stone, which is no clone of the image.
	for _, key := range []string{"first", "second"} {
		ms, err = one.Prepare(t.Context(), key, "image")
		must(t, err)
		must(t, mounted(ms, func(dir string) error {
			return exec.Command("sh", "-c", "cat "+dir+"/read && echo mine >"+dir+"/secret && cat "+dir+"/secret").Run()
		}))
		must(t, one.Remove(t.Context(), key)) // before anybody has looked
		await(t, "its end", func() bool { garbage, err := one.store.garbage(); must(t, err); return len(garbage) == 0 })
	}
	all, err := filepath.Glob(filepath.Join(f.dir, "data", "traces", "*.files"))
	must(t, err)
	if len(all) != 1 {
		t.Fatalf("lists of files are %v, want one", all)
	}
	b, err := os.ReadFile(all[0])
	must(t, err)
	told, err := boottrace.DecodeFiles(b)
	must(t, err)
	if got, want := fmt.Sprint(told), "[{read [{0 256}]}]"; got != want {
		t.Errorf("told is %s, want %s", got, want)
	}

	other := newSnapshotter(t, f, func(o *Options) { o.MountOptions = []string{"strictatime"} })
	if _, err := other.Prepare(t.Context(), "pull", "", labels); !errdefs.IsAlreadyExists(err) {
		t.Fatalf("prepare of a chain that the server has: %v", err)
	}
	name, err := other.store.childWithRef("", chainID("told"))
	must(t, err)
	ms, err = other.Prepare(t.Context(), "first", name)
	must(t, err)
	at := ms[0].Source
	await(t, "the file in memory", func() bool { return bytesInMemory(t, filepath.Join(at, "read")) == int64(len(content)) })
	if n := bytesInMemory(t, filepath.Join(at, "unread")); n != 0 {
		t.Errorf("%d bytes are in memory of a file that nobody has read", n)
	}
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(at, "read"), &st))
	if st.Atim.Nano() > st.Ctim.Nano() {
		t.Errorf("it was accessed at %v, after it was made at %v", st.Atim, st.Ctim)
	}
	must(t, other.Remove(t.Context(), "first"))
}

// TestReadAheadIsHarmless: whatever a list says, nothing outside the root is opened, no
// link is followed, and nothing but regular files is opened.
func TestReadAheadIsHarmless(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret")
	must(t, os.WriteFile(secret, []byte("x"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644))
	must(t, os.Symlink(secret, filepath.Join(dir, "link")))
	must(t, os.Symlink(outside, filepath.Join(dir, "there")))
	must(t, os.Symlink("file", filepath.Join(dir, "inside")))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644))
	must(t, os.Mkdir(filepath.Join(dir, "dir"), 0o755))
	must(t, os.Mkdir(filepath.Join(dir, "mnt"), 0o755))
	if err := unix.Mount(outside, filepath.Join(dir, "mnt"), "", unix.MS_BIND, ""); err == nil {
		defer func() { must(t, unix.Unmount(filepath.Join(dir, "mnt"), unix.MNT_DETACH)) }()
	}
	watch := func(path string) func() bool {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		must(t, err)
		t.Cleanup(func() { must(t, unix.Close(fd)) })
		_, err = unix.InotifyAddWatch(fd, path, unix.IN_OPEN)
		must(t, err)
		return func() bool { n, _ := unix.Read(fd, make([]byte, 4096)); return n > 0 }
	}
	opened := map[string]func() bool{}
	for _, path := range []string{secret, filepath.Join(dir, "fifo"), filepath.Join(dir, "dir")} {
		opened[path] = watch(path)
	}
	good := watch(filepath.Join(dir, "file"))
	var files []boottrace.File
	for _, path := range []string{"link", "there/secret", "inside", "fifo", "dir", "mnt/secret", "../" + filepath.Base(outside) + "/secret", secret, "none", ""} {
		files = append(files, boottrace.File{Path: path, Runs: []boottrace.Run{{First: 0, Count: 1}, {First: 1 << 31, Count: 1 << 31}}})
	}
	always := func() bool { return true }
	readAhead(dir, files, always)
	if good() {
		t.Error("a link inside was followed")
	}
	readAhead(dir, []boottrace.File{aFile("file", 7)}, func() bool { return false })
	if good() {
		t.Error("a file was opened that nobody wants")
	}
	readAhead(dir, []boottrace.File{aFile("file", 7)}, always)
	if !good() {
		t.Error("a file that is there was not opened")
	}
	for path, yes := range opened {
		if yes() {
			t.Errorf("%s was opened", path)
		}
	}
	readAhead(filepath.Join(dir, "none"), files, always)
}

// TestAheadGivesWay: who waits for a volume does not wait for what is read ahead there.
func TestAheadGivesWay(t *testing.T) {
	s := spares{volumes: &volumes{o: Options{Timeout: patience}}, habits: &habits{}}
	dir := t.TempDir()
	s.habits.learn("place", []boottrace.File{aFile("file", 1)})
	began, waits := make(chan struct{}), make(chan struct{})
	go func() {
		_ = s.touch(t.Context(), "v", func() {
			close(began)
			for wanted := s.wantedOn("v"); wanted(); {
				readAhead(dir, s.habits.of("place"), wanted)
			}
		})
	}()
	<-began
	go func() {
		defer close(waits)
		unlock, err := s.locks.lock(t.Context(), volumeLock("v"))
		if err == nil {
			unlock()
		}
	}()
	select {
	case <-waits:
	case <-time.After(patience):
		t.Fatal("it goes on")
	}
}

// TestWatchKeepsNothingMounted: a file system that is watched can be unmounted, and
// is then nothing to look at. What was changed since is left alone, and what this
// process has opened is not noted.
func TestWatchKeepsNothingMounted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mnt")
	must(t, os.Mkdir(dir, 0o755))
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_STRICTATIME, ""); err != nil {
		t.Skipf("mount: %v", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	file := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"file", "changed", "ours"} {
		must(t, os.WriteFile(file(name), []byte("x"), 0o644))
	}
	tick := func() { // the clock of file systems passes what it was by the other one
		for now := time.Now().UnixNano(); ; time.Sleep(time.Millisecond) {
			var coarse unix.Timespec
			must(t, unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &coarse))
			if coarse.Nano() > now {
				return
			}
		}
	}
	tick()
	o, err := watchOpens(dir)
	must(t, err)
	defer o.close()
	_, err = os.ReadFile(file("ours"))
	must(t, err)
	must(t, exec.Command("sh", "-c", "cat "+file("file")+" "+file("changed")+" && echo y >"+file("changed")).Run())
	var before, after unix.Stat_t
	must(t, unix.Stat(file("file"), &before))
	tick()
	files := o.look()
	must(t, unix.Stat(file("file"), &after))
	if before.Atim != after.Atim {
		t.Errorf("looking at a file has changed when it was accessed, from %v to %v", before.Atim, after.Atim)
	}
	must(t, unix.Unmount(dir, 0))
	if got, want := fmt.Sprint(files), "[{file [{0 1}]}]"; got != want {
		t.Errorf("opened: %s, want %s", got, want)
	}
	if files := o.look(); len(files) != 0 {
		t.Errorf("of what is not mounted: %+v", files)
	}
}

func aFile(path string, pages uint64) boottrace.File {
	return boottrace.File{Path: path, Runs: []boottrace.Run{{First: 0, Count: pages}}}
}

// TestHabits: of each place what was opened last is known first, and what the server
// has told after that, of the places that were used last. It is news to the server when
// it is a tenth more than it knows.
func TestHabits(t *testing.T) {
	var h habits
	h.learn("a", []boottrace.File{aFile("1", 1), aFile("2", 1)})
	h.learn("a", nil)
	h.learn("a", []boottrace.File{aFile("3", 1), aFile("2", 17)})
	h.hear("a", []boottrace.File{aFile("4", 1), aFile("1", 7), aFile("5", 1)})
	if got, want := fmt.Sprint(h.of("a")), "[{3 [{0 1}]} {2 [{0 17}]} {1 [{0 1}]} {4 [{0 1}]} {5 [{0 1}]}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	news := h.news("a")
	if len(news) != 5 {
		t.Errorf("%d files are news, want 5", len(news))
	}
	h.told("a", news)
	h.learn("a", []boottrace.File{aFile("6", 2)}) // 23 pages, of which 21 are told
	if n := len(h.news("a")); n != 0 {
		t.Errorf("%d files are news, want none", n)
	}
	h.learn("a", []boottrace.File{aFile("7", 1)})
	if n := len(h.news("a")); n != 7 {
		t.Errorf("%d files are news, want 7", n)
	}
	for i := range maxHabits {
		h.learn(fmt.Sprint(i), []boottrace.File{aFile("1", boottrace.MaxFilePages), aFile("2", 1)})
	}
	if len(h.list) != maxHabits || h.list[0].place != "0" || len(h.of("0")) != 1 || h.of("a") != nil || h.news("a") != nil {
		t.Errorf("%d places are known, the first is %s with %d files", len(h.list), h.list[0].place, len(h.of("0")))
	}
}

// TestStonesAreOfAnotherBase: what the server has told of a volume's base is taken for
// a place only if that is the base, once; and nothing is told of another.
func TestStonesAreOfAnotherBase(t *testing.T) {
	d := workerDevices{attached: map[string]*worker.Attached{"v": {Base: "a@layer", Files: []byte("x")}}}
	if got := d.takeFiles("v", "b@layer"); got != nil {
		t.Errorf("of another place: %q", got)
	}
	if err := d.tellFiles(t.Context(), "v", "b@layer", nil); !block.Is(err, block.NotFound) {
		t.Errorf("tell of another place: %v", err)
	}
	if got := d.takeFiles("v", "a@layer"); string(got) != "x" {
		t.Errorf("of its place: %q", got)
	}
	if got := d.takeFiles("v", "a@layer"); got != nil {
		t.Errorf("once more: %q", got)
	}
}

// TestWatches: no more than maxWatched containers are watched, and none after its end.
func TestWatches(t *testing.T) {
	var h habits
	dir := t.TempDir()
	var all []*opens
	for i := range maxWatched + 2 {
		o, err := watchOpens(dir)
		if err != nil {
			t.Skip(err)
		}
		all = append(all, o)
		h.watch(watched{"place", fmt.Sprint(i), o})
	}
	watching := func() (n int) {
		for _, o := range all {
			o.mu.Lock()
			if o.events >= 0 {
				n++
			}
			o.mu.Unlock()
		}
		return n
	}
	if n := watching(); n != maxWatched {
		t.Errorf("%d are watched, want %d", n, maxWatched)
	}
	h.unwatch("5")
	if _, ok := h.watchedOn("5"); ok || watching() != maxWatched-1 {
		t.Errorf("one is watched after its end")
	}
	h.unwatch("")
	if n := watching(); n != 0 {
		t.Errorf("%d are watched after the end", n)
	}
}

// TestWantedMeanwhile: of wants that nobody has taken the last counts.
func TestWantedMeanwhile(t *testing.T) {
	s := spares{wanted: make(chan want, 1)}
	s.want(want{place: "a"})
	s.want(want{place: "b", after: []time.Duration{time.Hour}})
	if w := <-s.wanted; w.place != "b" {
		t.Errorf("wanted is %s, want b", w.place)
	}
}
