package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/worker"
)

// patience bounds the wait for something that has to happen.
const patience = time.Minute

func needDevices(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for mounts and loop devices")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse: ", err)
	}
}

// testServer is a slackerd of its own, and the programs for workers.
type testServer struct {
	t           testing.TB
	bin, dir    string
	apiURL, nbd string
	cmd         *exec.Cmd
	logger      *zap.Logger
}

// programs are built once for all tests.
var programs struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	status := m.Run()
	if programs.dir != "" {
		_ = os.RemoveAll(programs.dir)
	}
	os.Exit(status)
}

// build builds the programs and returns their directory.
func build(t testing.TB) string {
	t.Helper()
	programs.once.Do(func() {
		if programs.dir, programs.err = os.MkdirTemp("", "slacker-programs"); programs.err != nil {
			return
		}
		args := []string{"build", "-o", programs.dir + "/"}
		for _, p := range []string{"slackerd", "slackerctl", "slacker-client", "slacker-snapshotter"} {
			args = append(args, "github.com/slackerd/slacker/cmd/"+p)
		}
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			programs.err = fmt.Errorf("build: %w: %s", err, out)
		}
	})
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	return programs.dir + "/"
}

// startServer starts slackerd.
func startServer(t testing.TB) *testServer {
	t.Helper()
	f := &testServer{t: t, bin: build(t), dir: t.TempDir(), logger: zap.NewNop()}
	if testing.Verbose() {
		f.logger, _ = zap.NewDevelopment()
	}
	f.nbd, f.apiURL = "tcp://127.0.0.1:0", "tcp://127.0.0.1:0"
	f.start()
	t.Cleanup(f.kill)
	return f
}

// serving is the line of the log that tells the addresses.
var serving = regexp.MustCompile(`"msg":"serving".*"nbd":\["([^"]*)"\],"api":\["([^"]*)"\]`)

// start starts slackerd; again at the addresses that it had.
func (f *testServer) start() {
	f.t.Helper()
	path := filepath.Join(f.dir, "slackerd.log")
	log, err := os.Create(path)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = log.Close() }() // slackerd has its own
	f.cmd = exec.Command(f.bin+"slackerd", "serve", "--data-dir", filepath.Join(f.dir, "data"), "--nbd-listen", f.nbd, "--api-listen", f.apiURL)
	f.cmd.Stdout, f.cmd.Stderr = log, log
	for _, e := range os.Environ() { // it refuses settings that it does not know
		if !strings.HasPrefix(e, "SLACKER_") {
			f.cmd.Env = append(f.cmd.Env, e)
		}
	}
	if err := f.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	defer func() {
		if f.t.Failed() {
			b, _ := os.ReadFile(path)
			f.t.Logf("slackerd: %s", b)
		}
	}()
	await(f.t, "slackerd serves", func() bool {
		b, err := os.ReadFile(path)
		m := serving.FindSubmatch(b)
		if m != nil {
			f.nbd, f.apiURL = string(m[1]), string(m[2])
		}
		return err == nil && m != nil
	})
}

func (f *testServer) kill() {
	if f.cmd != nil {
		_ = f.cmd.Process.Kill()
		_ = f.cmd.Wait()
		f.cmd = nil
	}
}

// pause stops slackerd in the middle of what it does, and returns when all of
// it has stopped: the signal alone takes effect later.
func (f *testServer) pause() {
	f.t.Helper()
	must(f.t, f.cmd.Process.Signal(unix.SIGSTOP))
	must(f.t, unix.Waitid(unix.P_PID, f.cmd.Process.Pid, nil, unix.WSTOPPED, nil))
}

// await polls until ok holds.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

func (f *testServer) client() (slackerv1connect.AdminServiceClient, error) {
	return api.NewClient(f.apiURL)
}

// options are those of a worker of its own at root.
func (f *testServer) options(root string) (Options, error) {
	c, err := worker.DefaultConfig()
	if err != nil {
		return Options{}, err
	}
	if c.API, err = f.client(); err != nil {
		return Options{}, err
	}
	c.Server, c.StateDir, c.Executable = f.apiURL, filepath.Join(root, "attached"), f.bin+"slacker-client"
	w, err := worker.New(c)
	if err != nil {
		return Options{}, err
	}
	o := DefaultOptions()
	o.Root, o.API, o.Worker, o.Driver, o.SizeBytes, o.Log = root, c.API, w, "fuse", 256<<20, f.logger
	o.Beat = 0 // what is left at the server is counted
	return o, nil
}

// open opens a snapshotter with those options.
func (f *testServer) open(root string, change func(*Options)) (*Snapshotter, error) {
	o, err := f.options(root)
	if err != nil {
		return nil, err
	}
	if change != nil {
		change(&o)
	}
	return New(o)
}

// removeAll removes every snapshot.
func removeAll(s *Snapshotter) error {
	ctx := context.Background()
	for {
		records := s.store.all()
		if len(records) == 0 {
			return nil
		}
		removed := 0
		for name := range records {
			if err := s.Remove(ctx, name); err == nil {
				removed++
			}
		}
		if removed == 0 {
			return fmt.Errorf("%d snapshots cannot be removed", len(records))
		}
	}
}

// emptyOut removes every snapshot and wants nothing to be left at the server.
func emptyOut(s *Snapshotter) error {
	ctx := context.Background()
	if err := removeAll(s); err != nil {
		return err
	}
	var errs []error
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := errors.Join(s.Cleanup(ctx), s.reaper.clear(ctx, now().Add(time.Hour))) // stones too
		left, lerr := s.server.list(ctx, s.names.own)
		if err == nil && lerr == nil && len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			errs = append(errs, err, lerr, fmt.Errorf("left at the server: %v", left))
			break
		}
	}
	mounted, err := findMounts(func(m mountPoint) bool { return strings.HasPrefix(m.dir, s.o.Root) })
	if len(mounted) > 0 {
		errs = append(errs, fmt.Errorf("still mounted: %v", mounted))
	}
	return errors.Join(append(errs, err, s.Close())...)
}
