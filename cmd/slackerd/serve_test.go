package main

import (
	"bytes"
	"context"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/config"
	"github.com/slackerd/slacker/gc"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/volume"
)

func TestWhatWasFlushedSurvives(t *testing.T) {
	for name, signal := range map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT, "SIGKILL": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(shortDir(t), "data")
			p := startServer(t, command(t, serveArgs(dir)...))
			p.create("v")
			c := p.dial("v")
			want := pattern(byte(signal))
			if err := c.WriteAt(context.Background(), want, 1<<20, false); err != nil {
				t.Fatal(err)
			}
			if err := c.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
			wantStatus, unflushed := 0, pattern(99)[:block.Size]
			if signal == syscall.SIGKILL {
				wantStatus, unflushed = -1, nil
			} else if err := c.WriteAt(context.Background(), unflushed, 0, false); err != nil {
				t.Fatal(err)
			}
			if status := p.end(signal); status != wantStatus {
				t.Errorf("exit status %d, want %d:\n%s", status, wantStatus, p.text())
			}
			_ = c.Close() // the server is gone

			p = startServer(t, command(t, serveArgs(dir)...))
			c = p.dial("v")
			defer func() { _ = c.Close() }()
			got := make([]byte, len(want))
			if err := c.ReadAt(context.Background(), got, 1<<20); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the data is not there any more (error %v)", err)
			}
			// An orderly end also keeps what was not flushed.
			if err := c.ReadAt(context.Background(), got, 0); err != nil || !bytes.HasPrefix(got, unflushed) {
				t.Errorf("what was written last is not there any more (error %v)", err)
			}
		})
	}
}

// A connection that is open and idle does not hold up the end.
func TestStopWithIdleConnection(t *testing.T) {
	p := startServer(t, command(t, serveArgs(shortDir(t), "--shutdown-timeout", "50s", "--log-level", "debug")...))
	p.create("v")
	c := p.dial("v")
	defer func() { _ = c.Close() }()
	begin := time.Now()
	if status := p.end(syscall.SIGTERM); status != 0 {
		t.Errorf("exit status %d:\n%s", status, p.text())
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("stopping took %v: it waited for the idle connection", took)
	}
	before, _, stopped := strings.Cut(p.text(), `"stopped"`)
	if !stopped || !strings.Contains(before, `"nbd connection`) {
		t.Errorf("the connection was not closed before the end:\n%s", p.text())
	}
}

func TestTwoServersOneDirectory(t *testing.T) {
	dir := shortDir(t)
	p := startServer(t, command(t, serveArgs(dir)...))
	_, stderr, status := runCommand(t, serveArgs(dir)...)
	want := "in use by process " + itoa(p.cmd.Process.Pid)
	if status != api.ExitStatus(block.Errorf(block.Busy, "")) || !strings.Contains(stderr, want) {
		t.Errorf("status %d, want that of busy; got\n%swant %q in it", status, stderr, want)
	}
	if status := p.end(syscall.SIGTERM); status != 0 {
		t.Errorf("the first server ended with %d", status)
	}
}

func TestUnixSockets(t *testing.T) {
	dir := shortDir(t)
	args := []string{"serve", "--data-dir", filepath.Join(dir, "data"), "--nbd-listen", unixAddr(dir, "nbd"), "--api-listen", unixAddr(dir, "api")}
	p := startServer(t, command(t, args...))
	p.create("v")
	for _, name := range []string{"nbd", "api"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != fs.ModeSocket|socketMode {
			t.Errorf("socket %s: mode %v (error %v), want %v", name, info.Mode(), err, fs.FileMode(socketMode))
		}
	}
	other := append([]string{}, args...)
	other[2] = filepath.Join(dir, "other")
	if _, stderr, status := runCommand(t, other...); status != 5 || !strings.Contains(stderr, "another process listens there") {
		t.Errorf("a second server on the sockets: status %d, %s", status, stderr)
	}
	if p.end(syscall.SIGKILL); p.cmd.ProcessState.ExitCode() != -1 {
		t.Error("the server survived SIGKILL")
	}
	// The sockets of the dead server are there, and are replaced.
	p = startServer(t, command(t, args...))
	_ = p.dial("v").Close()
	if status := p.end(syscall.SIGTERM); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if _, err := os.Stat(filepath.Join(dir, "nbd")); !os.IsNotExist(err) {
		t.Errorf("the socket is still there (error %v)", err)
	}
}

func TestSocketActivationAndNotification(t *testing.T) {
	dir := shortDir(t)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = notify.Close() }()
	inherit := func(network, address string) *os.File {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		f, err := l.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	serve := command(t, "serve", "--data-dir", filepath.Join(dir, "data"))
	// LISTEN_PID must be the server's own, which only its process knows.
	cmd := command(t)
	cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, serve.Args...)
	cmd.ExtraFiles = []*os.File{inherit("tcp", "127.0.0.1:0"), inherit("unix", filepath.Join(dir, "api"))}
	cmd.Env = append(cmd.Env, "LISTEN_FDS=2", "LISTEN_FDNAMES=nbd:api", "NOTIFY_SOCKET="+notify.LocalAddr().String(), "WATCHDOG_USEC=200000")
	p := startServer(t, cmd)
	if len(p.nbd) != 1 || len(p.api) != 1 || !strings.HasPrefix(p.nbd[0], "tcp://127.0.0.1:") || strings.HasSuffix(p.nbd[0], ":10809") || p.api[0] != unixAddr(dir, "api") {
		t.Fatalf("it serves on %v and %v, not on the sockets it was given", p.nbd, p.api)
	}
	p.create("v")
	_ = p.dial("v").Close()
	seen := map[string]bool{}
	wait := func(what string) {
		t.Helper()
		b := make([]byte, 4096)
		for !seen[what] {
			if err := notify.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			n, err := notify.Read(b)
			if err != nil {
				t.Fatalf("no %s from the server: %v", what, err)
			}
			state, _, _ := strings.Cut(string(b[:n]), "\n")
			seen[state] = true
		}
	}
	wait("READY=1")
	delete(seen, "WATCHDOG=1")
	wait("WATCHDOG=1")
	if status := p.end(syscall.SIGTERM); status != 0 {
		t.Errorf("exit status %d:\n%s", status, p.text())
	}
	wait("STOPPING=1")
	if _, err := os.Stat(filepath.Join(dir, "api")); err != nil {
		t.Errorf("the server removed the service manager's socket: %v", err)
	}
}

func TestMetricsAndHealth(t *testing.T) {
	p := startServer(t, command(t, serveArgs(shortDir(t))...))
	p.create("v")
	c := p.dial("v")
	if err := c.WriteAt(context.Background(), pattern(1), 0, true); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if status, body := p.get(path); status != 200 || body != "ok\n" {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	if status, _ := p.get("/debug/pprof/"); status != 404 {
		t.Errorf("the profiler is there unasked: status %d", status)
	}
	// The command is counted after its reply is on its way.
	want := []string{`slacker_nbd_command_bytes_total{command="write"} 65536`, `slacker_nbd_commands_total{command="write",result="ok"} 1`,
		`slacker_volume_command_bytes_total{command="write",volume="v"} 65536`, `slacker_volume_command_seconds_count{command="write",volume="v"} 1`,
		`slacker_volume_connections{volume="v"} 1`, "slacker_nbd_connections 1", "slacker_store_volumes 1", "slacker_store_fenced 0", "slacker_build_info{", "go_goroutines", "process_open_fds"}
	body, missing := "", ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		missing = ""
		_, body = p.get("/metrics")
		for _, w := range want {
			if !strings.Contains(body, w) {
				missing = w
			}
		}
		if missing == "" {
			break
		}
	}
	if missing != "" {
		t.Errorf("no %q in the metrics:\n%s", missing, body)
	}
	documentsMetrics(t, body)
	p.countsActivity()
	_ = c.Close()
	if status := p.end(syscall.SIGTERM); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

func TestProfilerOnRequest(t *testing.T) {
	p := startServer(t, command(t, serveArgs(shortDir(t), "--pprof")...))
	if status, _ := p.get("/debug/pprof/"); status != 200 {
		t.Errorf("status %d, want 200", status)
	}
}

func TestDefaultsAgreeWithThePackages(t *testing.T) {
	c := config.Default()
	if got, want := nbdLimits(&c.NBD), nbdserver.DefaultLimits(); got != want {
		t.Errorf("nbd limits are %+v, want %+v", got, want)
	}
	if s := c.Store; s.SegmentSize != volume.DefaultSegmentBytes || s.MapCacheSize != volume.DefaultMapCacheBytes ||
		s.PageCacheSize != volume.DefaultPageBytes || s.CommitInterval != volume.DefaultCommitInterval {
		t.Errorf("the store's defaults are %+v, and others in package volume", s)
	}
	if got, want := float64(c.GC.CleanBelow)/100, gc.DefaultCleanBelow; got != want {
		t.Errorf("gc.clean_below is %v, want %v", got, want)
	}
}
