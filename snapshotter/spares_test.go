package snapshotter

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bytesInMemory is how much of a file is in the page cache.
func bytesInMemory(t *testing.T, path string) (n int64) {
	t.Helper()
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	must(t, err)
	defer func() { must(t, f.Close()) }()
	info, err := f.Stat()
	must(t, err)
	for _, p := range inMemory(int(f.Fd()), info.Size()) {
		n += p.lengthBytes
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
		_, err = os.ReadFile(filepath.Join(dir, "usr", "read"))
		return errors.Join(err, unix.Close(fifo))
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

// TestWatchKeepsNothingMounted: a file system that is watched can be unmounted, and
// is then nothing to look at.
func TestWatchKeepsNothingMounted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mnt")
	must(t, os.Mkdir(dir, 0o755))
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Skipf("mount: %v", err)
	}
	o, err := watchOpens(dir)
	if err != nil {
		must(t, unix.Unmount(dir, 0))
		t.Fatal(err)
	}
	defer o.close()
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644))
	handles := o.take()
	files := lookAt(dir, handles)
	must(t, unix.Unmount(dir, 0))
	if len(files) != 1 || files[0].path != "file" || len(files[0].parts) != 1 {
		t.Errorf("opened: %+v, want the file", files)
	}
	if files := lookAt(dir, handles); len(files) != 0 {
		t.Errorf("of what is not mounted: %+v", files)
	}
}

// TestHabits: of each place what was opened last is known first, of the places that
// were used last.
func TestHabits(t *testing.T) {
	var s spares
	s.learn("a", []opened{{path: "1"}, {path: "2"}})
	s.learn("a", nil)
	s.learn("a", []opened{{path: "3"}, {path: "2", parts: []part{{0, 1}}}})
	if got, want := fmt.Sprint(s.habits), "[{a [{3 []} {2 [{0 1}]} {1 []}]}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for i := range maxHabits {
		s.learn(fmt.Sprint(i), make([]opened, maxOpened))
	}
	if len(s.habits) != maxHabits || s.habits[0].place != "0" {
		t.Errorf("%d places are known, the first is %s", len(s.habits), s.habits[0].place)
	}
}

// TestWantedMeanwhile: of wants that nobody has taken the last counts, and the files
// that the others watch are let go.
func TestWantedMeanwhile(t *testing.T) {
	s := spares{wanted: make(chan want, 1)}
	o, err := watchOpens(t.TempDir())
	if err != nil {
		t.Skip(err)
	}
	s.want(want{place: "a", opens: o})
	s.want(want{place: "b", after: []time.Duration{time.Hour}})
	if w := <-s.wanted; w.place != "b" {
		t.Errorf("wanted is %s, want b", w.place)
	}
	if link, err := os.Readlink(procFD(o.events)); err == nil && strings.Contains(link, "fanotify") {
		t.Error("the first one still watches")
	}
}
