package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/nbdclient"
)

// asServer makes the test binary behave as slackerd, so that the tests run it
// as a real process, under the race detector if they do.
const asServer = "SLACKERD_TEST_AS_SERVER"

// killAt names the step of an upgrade at which that server kills itself.
const killAt = "SLACKERD_TEST_KILL_AT"

func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		if at := os.Getenv(killAt); at != "" {
			stepDone = func(name string) {
				if name == at {
					_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
					select {}
				}
			}
		}
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// patience bounds the wait for a process to do something.
const patience = 60 * time.Second

// command returns slackerd with arguments, not started yet.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self, args...)
	// The race detector would wait a second at every exit.
	cmd.Env = append(os.Environ(), asServer+"=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// runCommand runs slackerd to its end.
func runCommand(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := command(t, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if _, ended := err.(*exec.ExitError); !ended {
			t.Fatal(err)
		}
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// process is a running server.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	nbd  []string
	api  []string
	done chan struct{} // closed when it has ended and its log is read

	mu  sync.Mutex
	log []string
}

// serving is the log line of a server that is ready.
type serving struct {
	Msg string   `json:"msg"`
	NBD []string `json:"nbd"`
	API []string `json:"api"`
}

// startServer starts cmd, which is "slackerd serve", and waits until it serves.
func startServer(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, done: make(chan struct{})}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan serving, 1)
	go p.read(stderr, ready)
	t.Cleanup(p.kill)
	select {
	case s := <-ready:
		p.nbd, p.api = s.NBD, s.API
	case <-p.done:
		t.Fatalf("the server ended before it served:\n%s", p.text())
	case <-time.After(patience):
		t.Fatalf("the server does not serve after %v:\n%s", patience, p.text())
	}
	return p
}

func (p *process) read(stderr io.Reader, ready chan<- serving) {
	defer close(p.done)
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		p.mu.Lock()
		p.log = append(p.log, lines.Text())
		p.mu.Unlock()
		var s serving
		if json.Unmarshal(lines.Bytes(), &s) == nil && s.Msg == "serving" {
			select {
			case ready <- s:
			default: // again, after an upgrade
			}
		}
	}
	_ = p.cmd.Wait() // the status is in ProcessState
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.log, "\n")
}

// end sends a signal and returns the exit status, -1 after a signal's death.
func (p *process) end(s syscall.Signal) int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("the server lives %v after %v:\n%s", patience, s, p.text())
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) kill() {
	select {
	case <-p.done:
	default:
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// serveArgs are the arguments of a server on a data directory, on loopback.
func serveArgs(dir string, more ...string) []string {
	return append([]string{"serve", "--data-dir", dir, "--nbd-listen", "tcp://127.0.0.1:0", "--api-listen", "tcp://127.0.0.1:0"}, more...)
}

func (p *process) client() slackerv1connect.AdminServiceClient {
	p.t.Helper()
	c, err := api.NewClient(p.api[0])
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func (p *process) create(name string) {
	p.t.Helper()
	_, err := p.client().CreateVolume(context.Background(), connect.NewRequest(&slackerv1.CreateVolumeRequest{Name: name, SizeBytes: 64 << 20}))
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) dial(export string) *nbdclient.Conn {
	p.t.Helper()
	c, err := nbdclient.Dial(context.Background(), p.nbd[0], export, nbdclient.DefaultOptions())
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

// get returns the status and the body of an HTTP request.
func (p *process) get(path string) (int, string) {
	p.t.Helper()
	r, err := http.Get(strings.Replace(p.api[0], "tcp://", "http://", 1) + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func pattern(seed byte) []byte { return bytes.Repeat([]byte{seed, seed + 1, seed + 2, 0}, 16<<10) }

// shortDir is a directory with a path that leaves room for socket names.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "slackerd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func unixAddr(dir, name string) string { return fmt.Sprintf("unix://%s", filepath.Join(dir, name)) }

// snapshotAndClone makes volume@snapshot and a clone of it.
func (p *process) snapshotAndClone(volume, snapshot, clone string) {
	p.t.Helper()
	ctx := context.Background()
	_, err := p.client().CreateSnapshot(ctx, connect.NewRequest(&slackerv1.CreateSnapshotRequest{Volume: volume, Snapshot: snapshot}))
	if err == nil {
		_, err = p.client().CloneSnapshot(ctx, connect.NewRequest(&slackerv1.CloneSnapshotRequest{Volume: volume, Snapshot: snapshot, NewVolume: clone}))
	}
	if err != nil {
		p.t.Fatal(err)
	}
}
