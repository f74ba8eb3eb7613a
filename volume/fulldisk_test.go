package volume

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/gc"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

const fullBlocks = 96 << 10 // of a volume: more than any of these disks holds

// disk is a small disk with a store on it.
type disk struct {
	t    *testing.T
	o    Options
	s    *Store
	tags map[string]map[block.Index]tag // what was acknowledged
	next tag
	fill func() // by somebody else, to the last byte
	free func() // undoes fill
}

func (k *disk) open() {
	k.t.Helper()
	var c *gc.Collector
	o := k.o
	o.MakeRoom = func(ctx context.Context) bool { return c.MakeRoom(ctx) }
	k.s = must[*Store](k.t)(Open(o))
	c = gc.New(k.s, gc.Options{})
}

func (k *disk) write(name string, i block.Index, fua bool) error {
	d := must[*Device](k.t)(k.s.Open(context.Background(), name, "test", nil))
	defer func() { _ = d.Close() }()
	b := make([]byte, 16*block.Size)
	for n := range 16 {
		(k.next + tag(n) + 1).fill(b[n*block.Size : (n+1)*block.Size])
	}
	err := d.WriteAt(context.Background(), b, uint64(i)*block.Size, fua)
	for n := range 16 {
		k.next++
		if err == nil {
			k.tags[name][i+block.Index(n)] = k.next
		}
	}
	return err
}

// fillUp writes until there is no room.
func (k *disk) fillUp(name string) (n int) {
	k.t.Helper()
	for i := block.Index(0); i < fullBlocks; i += 16 {
		if err := k.write(name, i, i%1024 == 0); err != nil {
			wantKind(k.t, err, block.NoSpace)
			return int(i)
		}
	}
	k.t.Fatal("the disk took everything")
	return 0
}

func (k *disk) verify() {
	k.t.Helper()
	b := make([]byte, block.Size)
	for name, tags := range k.tags {
		d := must[*Device](k.t)(k.s.Open(context.Background(), name, "test", nil))
		for i, want := range tags {
			mustDo(k.t, d.ReadAt(context.Background(), b, uint64(i)*block.Size))
			if got, whole := tagOf(b); got != want || !whole {
				k.t.Fatalf("%s block %d holds %d (whole: %v), want %d", name, i, got, whole, want)
			}
		}
		mustDo(k.t, d.Close())
	}
	for _, d := range must[[]any](k.t)(k.damages()) {
		k.t.Error(d)
	}
}

func (k *disk) damages() (out []any, err error) {
	found, err := k.s.Check(context.Background(), true, nil)
	for _, d := range found {
		out = append(out, d)
	}
	return out, err
}

// run (V8): a store fills its disk, then somebody else fills the rest to the last byte.
// Data is refused with NoSpace, nothing that was acknowledged is lost, deletes,
// trims, gc and opening work all the same, and then there is room again.
func (k *disk) run() {
	t, ctx := k.t, context.Background()
	core, logged := observer.New(zap.InfoLevel)
	k.o.Logger = zap.New(core)
	said := func(text string) int { return logged.FilterMessageSnippet(text).Len() }
	k.open()
	for _, name := range []string{"a", "b"} {
		must[Info](t)(k.s.Create(ctx, name, fullBlocks*block.Size))
		k.tags[name] = map[block.Index]tag{}
	}
	for i := block.Index(0); i < 1024; i += 16 {
		mustDo(t, k.write("b", i, false))
	}
	wrote := k.fillUp("a")
	st := must[Status](t)(k.s.Status(ctx))
	if st.FreeBytes < uint64(k.o.ReserveBytes)/2 || !st.Short {
		t.Errorf("refused with %d bytes free, short %v: want about the reserve of %d, and short", st.FreeBytes, st.Short, k.o.ReserveBytes)
	}
	for range 2 {
		k.s.checkRoom() // as the committer does
	}
	if said("data is refused") != 1 || said("data is taken again") != 0 {
		t.Errorf("the log says %d times that data is refused, and %d times that it is taken again: want 1 and 0", said("data is refused"), said("data is taken again"))
	}
	k.fill()
	k.s.checkRoom()
	if err := k.write("b", 5000, false); !block.Is(err, block.NoSpace) {
		t.Errorf("a write on a full disk: %v, want no space", err)
	}
	mustDo(t, k.s.Flush(ctx))
	mustDo(t, k.s.Close())
	k.open() // on the full disk
	k.verify()
	// What gives space back works, and keeps working.
	d := openDevice(t, k.s, "a")
	mustDo(t, d.Trim(ctx, 0, uint64(wrote/2)*block.Size, true))
	for i := range block.Index(wrote / 2) {
		k.tags["a"][i] = 0
	}
	mustDo(t, d.Close())
	must[[]string](t)(k.s.Delete(ctx, "b", false))
	delete(k.tags, "b")
	for range 3 {
		if _, faults, err := gc.New(k.s, gc.Options{}).Collect(ctx, false, nil); err != nil || len(faults) > 0 {
			t.Fatalf("collect on a full disk: %v, %q", err, faults)
		}
	}
	k.free()
	k.s.checkRoom()
	if k.s.held.Load() {
		t.Error("the ballast is not back though there is room")
	}
	if said("data is taken again") != 1 {
		t.Errorf("the log says %d times that data is taken again: want once", said("data is taken again"))
	}
	again := 0
	for i := block.Index(0); i < block.Index(wrote/3); i += 16 {
		mustDo(t, k.write("a", i, false))
		again++
	}
	k.verify()
	mustDo(t, k.s.Close())
	k.open()
	k.verify()
	t.Logf("took %d MiB, then %d more writes", wrote*block.Size/mib, again)
	mustDo(t, k.s.Close())
}

func fullOptions(fs vfs.FS, dir string, reserve int64) Options {
	return Options{Dir: dir, FS: fs, SegmentBytes: mib, SpareSegments: 2, MapCacheBytes: 1 << 20, PageCacheBytes: 16 << 20,
		CommitInterval: time.Hour, ReserveBytes: reserve, Logger: zap.NewNop()}
}

// TestFullToTheLastByte fills a disk that is kept in memory.
func TestFullToTheLastByte(t *testing.T) {
	fs := newQuotaFS(vfs.NewMem(), 64*mib)
	k := &disk{t: t, o: fullOptions(fs, "store", 8*mib), tags: map[string]map[block.Index]tag{},
		fill: func() { fs.q.setLimit(0) }, free: func() { fs.q.setLimit(64 * mib) }}
	k.run()
}

// TestFullExt4 does the same to an ext4 on a loop device.
func TestFullExt4(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	dir := t.TempDir()
	image, mnt := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	mustDo(t, os.Mkdir(mnt, 0o700))
	mustDo(t, os.WriteFile(image, nil, 0o600))
	mustDo(t, os.Truncate(image, 256*mib))
	run := func(arg ...string) error {
		out, err := exec.Command(arg[0], arg[1:]...).CombinedOutput()
		if err != nil {
			t.Logf("%v: %v: %s", arg, err, out)
		}
		return err
	}
	mustDo(t, run("mkfs.ext4", "-q", "-m", "0", image))
	if err := run("mount", "-o", "loop", image, mnt); err != nil {
		t.Skip("this machine mounts no loop devices")
	}
	defer func() { mustDo(t, run("umount", mnt)) }()
	junk := filepath.Join(mnt, "junk")
	k := &disk{t: t, o: fullOptions(vfs.Default, filepath.Join(mnt, "store"), 40*mib), tags: map[string]map[block.Index]tag{}}
	k.fill = func() {
		f := must[*os.File](t)(os.Create(junk))
		for _, n := range []int{mib, block.Size, 1} {
			for {
				if _, err := f.Write(make([]byte, n)); err != nil {
					if !errors.Is(err, syscall.ENOSPC) {
						t.Fatal(err)
					}
					break
				}
			}
		}
		mustDo(t, f.Sync())
		mustDo(t, f.Close())
	}
	k.free = func() { mustDo(t, os.Remove(junk)) }
	k.run()
}
