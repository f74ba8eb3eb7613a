package worker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver"
)

// needStandby skips a test where no process can take another's place.
func needStandby(t *testing.T) {
	t.Helper()
	needFuse(t)
	if release := kernelRelease(); !atLeast(release, 6, 9) {
		t.Skipf("a FUSE file system cannot change its process before Linux 6.9; this is %s", release)
	}
}

func atLeast(release string, major, minor int) bool {
	var a, b int
	_, err := fmt.Sscanf(release, "%d.%d", &a, &b)
	return err == nil && (a > major || a == major && b >= minor)
}

// awaitAgents waits until the agent that is not old lives and has a standby.
func awaitAgents(t *testing.T, ag agent, old int) (pid, standby int) {
	t.Helper()
	must(t, awaitFor(t.Context(), 30*time.Second, func() (bool, error) {
		pid, standby = ag.pids()
		return pid != 0 && pid != old && standby != 0 && unix.Kill(pid, 0) == nil && unix.Kill(standby, 0) == nil, nil
	}))
	return pid, standby
}

// TestAgentEnds ends the daemon of a device in every way, again and again,
// while blocks are written and read back, past all caches. Nobody may notice.
func TestAgentEnds(t *testing.T) {
	needStandby(t)
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	w := testWorker(t, testConfig(t, f))
	a, err := w.Attach(t.Context(), "v", fuseOptions(""))
	must(t, err)
	ag := agent{w.store, "v"}
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for i := range uint64(4) {
		writers.Go(func() { writeAndVerify(ctx, t, a.Device, i*64) })
	}
	pid, standby := awaitAgents(t, ag, 0)
	for _, end := range []struct {
		what string
		kill func() error
	}{
		{"the agent is killed", func() error { return unix.Kill(pid, unix.SIGKILL) }},
		{"the agent is told to end", func() error { return unix.Kill(pid, unix.SIGTERM) }},
		{"the agent is told to begin anew", func() error { return unix.Kill(pid, unix.SIGHUP) }},
		{"restart", func() error { _, err := w.Restart(t.Context(), nil); return err }},
		{"the agent is killed again", func() error { return unix.Kill(pid, unix.SIGKILL) }},
	} {
		must(t, end.kill())
		pid, standby = awaitAgents(t, ag, pid)
		if rows, err := w.List(t.Context()); err != nil || rows[0].Condition != ConditionOK {
			t.Errorf("%s: list: %+v, %v", end.what, rows, err)
		}
	}
	must(t, unix.Kill(standby, unix.SIGKILL))
	must(t, awaitFor(t.Context(), 30*time.Second, func() (bool, error) {
		now, other := ag.pids()
		return now == pid && other != standby && other != 0 && unix.Kill(other, 0) == nil, nil
	}))
	must(t, unix.Kill(pid, unix.SIGKILL))
	awaitAgents(t, ag, pid)
	stop()
	writers.Wait()
	_, err = w.Detach(t.Context(), "v", false)
	must(t, err)
}

// writeAndVerify writes numbered blocks from the block on, and reads each back.
func writeAndVerify(ctx context.Context, t *testing.T, device string, from uint64) {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = f.Close() }()
	buf, err := unix.Mmap(-1, 0, 2*block.Size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = unix.Munmap(buf) }()
	out, in := buf[:block.Size], buf[block.Size:]
	count := uint64(0)
	for ; ctx.Err() == nil; count++ {
		at := int64(from+count%64) * block.Size
		binary.LittleEndian.PutUint64(out, count)
		_, werr := f.WriteAt(out, at)
		_, rerr := f.ReadAt(in, at)
		if err := errors.Join(werr, rerr); err != nil || !bytes.Equal(in, out) {
			t.Errorf("write %d at %d: %v; read back %d", count, at, err, binary.LittleEndian.Uint64(in))
			return
		}
	}
	t.Logf("%d blocks written and read from block %d on", count, from)
}

// TestNoGhostOfADeadAgent holds a write at the server until after its agent
// was killed, the kernel has sent it again, and the block was overwritten: it
// must not land then (C9).
func TestNoGhostOfADeadAgent(t *testing.T) {
	needStandby(t)
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	one, two := bytes.Repeat([]byte{1}, block.Size), bytes.Repeat([]byte{2}, block.Size)
	held, release := make(chan string, 1), make(chan struct{})
	var mu sync.Mutex
	late := ""
	f.writing = func(ctx context.Context, slot string, p []byte) {
		mu.Lock()
		first := late == "" && bytes.Equal(p, one)
		if first {
			late = slot
		}
		mu.Unlock()
		if first {
			held <- slot
			select {
			case <-ctx.Done():
			case <-release:
			}
		}
	}
	f.opening = func(slot string) {
		mu.Lock()
		slow := slot == late
		mu.Unlock()
		if slow { // the others are there long before it
			time.Sleep(500 * time.Millisecond)
		}
	}
	w := testWorker(t, testConfig(t, f))
	a, err := w.Attach(t.Context(), "v", fuseOptions(""))
	must(t, err)
	file, err := os.OpenFile(a.Device, os.O_RDWR|unix.O_SYNC, 0)
	must(t, err)
	defer func() { _ = file.Close() }()
	pid, _ := awaitAgents(t, agent{w.store, "v"}, 0)
	done := make(chan error, 1)
	go func() {
		_, err := file.WriteAt(one, 0)
		done <- err
	}()
	<-held
	must(t, unix.Kill(pid, unix.SIGKILL))
	must(t, <-done) // in flight when its agent died, and no error
	_, err = file.WriteAt(two, 0)
	must(t, err)
	close(release)
	// Whatever the held write does now, it has done by the end of this.
	_, err = w.Detach(t.Context(), "v", true)
	must(t, err)
	dev, err := f.backend.Open(t.Context(), "v", nbdserver.Conn{}, func(error) {})
	must(t, err)
	got := make([]byte, block.Size)
	must(t, errors.Join(dev.ReadAt(t.Context(), got, 0), dev.Close()))
	if !bytes.Equal(got, two) {
		t.Fatalf("the block holds %d, want 2: a write of the dead agent landed late", got[0])
	}
}

// TestAgentAndStandbyKilled kills both at once. The device is dead then; what
// follows clears it away.
func TestAgentAndStandbyKilled(t *testing.T) {
	needStandby(t)
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	w := testWorker(t, testConfig(t, f))
	for _, then := range []string{"detach", "attach", "clean"} {
		t.Run(then, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "m")
			_, err := w.Attach(t.Context(), "v", fuseOptions(dir))
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600))
			ag := agent{w.store, "v"}
			pid, standby := awaitAgents(t, ag, 0)
			must(t, errors.Join(unix.Kill(standby, unix.SIGKILL), unix.Kill(pid, unix.SIGKILL)))
			must(t, await(t.Context(), func() (bool, error) { return ag.pid() == 0, nil }))
			rows, err := w.List(t.Context())
			if err != nil || rows[0].Condition != ConditionStale {
				t.Fatalf("list: %+v, %v", rows, err)
			}
			switch then {
			case "detach":
				_, err = w.Detach(t.Context(), "v", false)
			case "attach":
				if _, err = w.Attach(t.Context(), "v", fuseOptions(dir)); err == nil {
					_, err = w.Detach(t.Context(), "v", false)
				}
			case "clean":
				_, err = w.Clean(t.Context())
			}
			must(t, err)
			nothingLeft(t, f, w.StateDir)
		})
	}
}

// mountedWithoutServer has a volume v mounted, with unwritten data, whose server is
// away for longer than anybody would wait.
func mountedWithoutServer(t *testing.T) (*fakeServer, *Worker) {
	t.Helper()
	needFuse(t)
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	c := testConfig(t, f)
	c.DeadTimeout = time.Hour
	w := testWorker(t, c)
	dir := filepath.Join(t.TempDir(), "m")
	_, err := w.Attach(t.Context(), "v", fuseOptions(dir))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "f"), make([]byte, 1<<20), 0o600))
	f.away()
	return f, w
}

// TestForceWithoutServer detaches a mounted volume with unwritten data by force
// while the server is away for longer than anybody would wait.
func TestForceWithoutServer(t *testing.T) {
	f, w := mountedWithoutServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	_, err := w.Detach(ctx, "v", true)
	must(t, err)
	f.mu.Lock()
	clear(f.attachments) // what is left at the server the next attach drops
	f.mu.Unlock()
}

// isLocked says whether anybody has locked a file, without trying to: who comes
// meanwhile would be refused.
func isLocked(path string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return false, err
	}
	locks, err := os.ReadFile("/proc/locks")
	return bytes.Contains(locks, fmt.Appendf(nil, ":%d ", st.Ino)), err
}

// TestForceBesideADetachThatWaits: a detach that waits for a server that is away
// holds the lock; one by force does not wait for it.
func TestForceBesideADetachThatWaits(t *testing.T) {
	f, w := mountedWithoutServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	waits := make(chan error, 1)
	go func() {
		_, err := w.Detach(ctx, "v", false)
		waits <- err
	}()
	must(t, awaitFor(ctx, time.Minute, func() (bool, error) { return isLocked(w.store.path(keyOf("v"), ".lock")) }))
	_, err := w.Detach(ctx, "v", true)
	must(t, err)
	if err := <-waits; err == nil {
		t.Error("the detach that waited says that all was written")
	}
	if s, err := w.store.load("v"); s != nil || err != nil {
		t.Errorf("state %+v (%v) is left", s, err)
	}
	f.mu.Lock()
	clear(f.attachments) // what is left at the server the next attach drops
	f.mu.Unlock()
}
