package nbdclient

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/slackerd/slacker/block"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testOptions() Options { return Options{DialTimeout: 60 * time.Second, StallTimeout: time.Minute} }

// startNbdkit starts nbdkit on socket and waits until it listens.
func startNbdkit(t *testing.T, socket string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("nbdkit")
	if err != nil {
		t.Skip("nbdkit is not installed (Debian package nbdkit)")
	}
	cmd := exec.Command(path, append([]string{"-f", "-U", socket}, args...)...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(cmd) })
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("unix", socket); err == nil {
			_ = c.Close()
			return cmd
		}
		if time.Now().After(deadline) {
			t.Fatal("nbdkit does not listen")
		}
	}
}

func stop(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func dialTest(t *testing.T, socket, export string) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), "unix://"+socket, export, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestConnAgainstNbdkit(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 64<<20); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{"memory": {"memory", "64M"}, "file": {"file", file}} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			startNbdkit(t, socket, args...)
			exercise(t, dialTest(t, socket, ""))
		})
	}
}

// exercise runs every request against a blank writable export of 64 MiB.
func exercise(t *testing.T, c *Conn) {
	ctx := t.Context()
	info := c.Info()
	if info.SizeBytes != 64<<20 || !info.Structured || !info.Allocation || !info.Flags.Has(FlagSendFlush) {
		t.Fatalf("info %+v", info)
	}
	data := make([]byte, 40<<20) // more than one request takes
	for i := range data {
		data[i] = byte(i>>12) ^ byte(i)
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(c.WriteAt(ctx, data, 4096, true))
	check(c.Flush(ctx))
	got := make([]byte, len(data))
	check(c.ReadAt(ctx, got, 4096))
	if !bytes.Equal(got, data) {
		t.Fatal("read differs from what was written")
	}
	check(c.WriteZeroes(ctx, 8192, 1<<20, false, true))
	check(c.Trim(ctx, 8<<20, 1<<20, false))
	check(c.ReadAt(ctx, got[:1<<20], 8192))
	if !bytes.Equal(got[:1<<20], make([]byte, 1<<20)) {
		t.Fatal("range is not zero after write zeroes")
	}
	extents, err := c.BlockStatus(ctx, 0, info.SizeBytes)
	check(err)
	var sum uint64
	holes := 0
	for _, e := range extents {
		sum += e.LengthBytes
		if e.Hole {
			holes++
		}
	}
	if sum == 0 || sum > info.SizeBytes || holes == 0 {
		t.Fatalf("block status %+v", extents)
	}
	if info.Flags.Has(FlagSendCache) {
		check(c.Cache(ctx, 0, 1<<20))
	}
	if err := c.ReadAt(ctx, got[:2], info.SizeBytes-1); !block.Is(err, block.Invalid) {
		t.Fatalf("read past the end: %v", err)
	}
	check(c.Disconnect())
	if err := c.Flush(ctx); !block.Is(err, block.Unavailable) {
		t.Fatalf("flush after disconnect: %v", err)
	}
}

func TestConcurrentRequests(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	startNbdkit(t, socket, "--filter=delay", "memory", "16M", "delay-read=1ms")
	c := dialTest(t, socket, "")
	var wg sync.WaitGroup
	for g := range uint64(16) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, g))
			model := make([]byte, 1<<20)
			for range 60 {
				off := rng.Uint64N(1<<20 - 16<<10)
				p := make([]byte, 1+rng.Uint64N(16<<10))
				for i := range p {
					p[i] = byte(rng.Uint32())
				}
				copy(model[off:], p)
				if err := c.WriteAt(t.Context(), p, g<<20+off, false); err != nil {
					t.Error(err)
					return
				}
				got := make([]byte, 32<<10)
				if err := c.ReadAt(t.Context(), got, g<<20); err != nil || !bytes.Equal(got, model[:len(got)]) {
					t.Errorf("read: differs from the model, or error %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestReadOnlyAndUnknownExport(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	startNbdkit(t, socket, "-r", "file", "dir="+dir)
	c := dialTest(t, socket, "a")
	if !c.Info().Flags.Has(FlagReadOnly) {
		t.Fatalf("flags %#x, want read-only", c.Info().Flags)
	}
	if err := c.WriteAt(t.Context(), make([]byte, 512), 0, false); !block.Is(err, block.ReadOnly) {
		t.Fatalf("write: %v", err)
	}
	if _, err := Dial(t.Context(), "unix://"+socket, "b", testOptions()); err == nil {
		t.Fatal("an unknown export was opened")
	}
	exports, err := List(t.Context(), "unix://"+socket, testOptions())
	if err != nil || len(exports) != 1 || exports[0].Name != "a" {
		t.Fatalf("list: %+v, %v", exports, err)
	}
}

func TestCancelLeavesTheBufferAlone(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	startNbdkit(t, socket, "--filter=delay", "memory", "1M", "delay-read=300ms")
	c := dialTest(t, socket, "")
	if err := c.WriteAt(t.Context(), bytes.Repeat([]byte{7}, 4096), 0, false); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	p := make([]byte, 4096)
	if err := c.ReadAt(ctx, p, 0); !block.Is(err, block.Unavailable) {
		t.Fatalf("cancelled read: %v", err)
	}
	q := make([]byte, 4096)
	if err := c.ReadAt(t.Context(), q, 0); err != nil || q[0] != 7 {
		t.Fatalf("the connection did not survive a cancelled read: %v", err)
	}
	if !bytes.Equal(p, make([]byte, 4096)) {
		t.Fatal("the buffer of a cancelled read was written to")
	}
}

func TestStalledServer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	startNbdkit(t, socket, "--filter=delay", "memory", "1M", "delay-read=5")
	opts := testOptions()
	opts.StallTimeout = 100 * time.Millisecond
	c, err := Dial(t.Context(), "unix://"+socket, "", opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.ReadAt(t.Context(), make([]byte, 512), 0); !block.Is(err, block.Unavailable) {
		t.Fatalf("read from a stalled server: %v", err)
	}
}

func TestParseAddr(t *testing.T) {
	good := map[string]Addr{"tcp://127.0.0.1:10809": {"tcp", "127.0.0.1:10809"}, "tcp://[::1]:1": {"tcp", "[::1]:1"}, "unix:///a/b": {"unix", "/a/b"}}
	for s, want := range good {
		if got, err := ParseAddr(s); err != nil || got != want || got.String() != s {
			t.Errorf("ParseAddr(%q) = %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "127.0.0.1:1", "tcp://", "tcp://h", "tcp://:1", "tcp://h:", "unix://rel", "unix://", "http://h:1"} {
		if _, err := ParseAddr(s); !block.Is(err, block.Invalid) {
			t.Errorf("ParseAddr(%q): %v", s, err)
		}
	}
	if _, err := Dial(t.Context(), "unix:///nonexistent/x", "e", testOptions()); !block.Is(err, block.Unavailable) {
		t.Errorf("dial of nothing: %v", err)
	}
}
