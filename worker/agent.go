package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// Names of the hidden commands that are the agents.
const (
	AgentMonitor    = "monitor"
	AgentFuseDaemon = "fuse-daemon"
	AgentStandby    = "standby" // of either
)

const (
	readyFD       = 3 // where an agent reports that it is ready, or why not
	maxReadyBytes = 4096
)

// agent is the background process of one target.
type agent struct {
	store  store
	target string
}

// start runs EXECUTABLE NAME STATEDIR TARGET NONCE in a session of its own and
// waits until it is ready. It returns what the agent reported.
func (a agent) start(ctx context.Context, executable, name, nonce string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, agentStartTimeout)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		return "", block.Errorf(block.IO, "start %s for %s: %w", name, a.target, err)
	}
	defer func() { _ = r.Close() }()
	logFile, err := os.OpenFile(a.store.path(keyOf(a.target), ".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		_ = w.Close()
		return "", block.Errorf(block.KindOfFile(err), "start %s for %s: %w", name, a.target, err)
	}
	cmd := exec.Command(executable, name, a.store.dir, a.target, nonce)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = logFile, logFile, []*os.File{w}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	err = startFlusher(cmd)
	_ = w.Close()
	_ = logFile.Close()
	if err != nil {
		return "", block.Errorf(block.IO, "start %s for %s: %w", name, a.target, err)
	}
	go func() { _ = cmd.Wait() }() // it outlives us, or is reaped here
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := bufio.NewReaderSize(r, maxReadyBytes).ReadString('\n')
	if ok, found := strings.CutPrefix(strings.TrimSpace(line), "ok "); found && err == nil {
		return ok, nil
	}
	if text, found := strings.CutPrefix(line, "error "); found && err == nil {
		kind, text, _ := strings.Cut(strings.TrimSpace(text), " ")
		n, _ := strconv.ParseUint(kind, 10, 8)
		return "", block.Errorf(block.Kind(n), "%s", text)
	}
	_ = cmd.Process.Kill()
	if ctx.Err() != nil {
		return "", block.Errorf(block.Unavailable, "start %s for %s: not ready: %w", name, a.target, context.Cause(ctx))
	}
	return "", block.Errorf(block.Internal, "start %s for %s: it died: %s", name, a.target, a.lastWords())
}

// startFlusher starts cmd with the mark that it serves I/O of the kernel: its
// memory allocations then never wait for I/O to itself.
func startFlusher(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The mark is inherited. Kernels before 5.6 do not know it.
	marked := unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0) == nil
	err := cmd.Start()
	if marked {
		err = errors.Join(err, unix.Prctl(unix.PR_SET_IO_FLUSHER, 0, 0, 0, 0))
	}
	return err
}

// lastWords is the last line of the agent's log.
func (a agent) lastWords() string {
	b, err := os.ReadFile(a.store.path(keyOf(a.target), ".log"))
	if err != nil || len(b) == 0 {
		return "its log is empty"
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// lockFile opens the agent's lock file and tries its lock.
func (a agent) lockFile(flags int) (f *os.File, locked bool, err error) {
	f, err = os.OpenFile(a.store.path(keyOf(a.target), ".agent"), os.O_RDWR|flags, 0o600)
	if err != nil {
		return nil, false, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil && err != unix.EWOULDBLOCK {
		_ = f.Close()
		return nil, false, err
	}
	return f, err == nil, nil
}

// pid returns the process id of the living agent, or 0.
func (a agent) pid() int {
	pid, _ := a.pids()
	return pid
}

// pids returns the process ids of the living agent and of its standby, or 0.
func (a agent) pids() (pid, standby int) {
	f, locked, err := a.lockFile(0)
	if err != nil {
		return 0, 0
	}
	defer func() { _ = f.Close() }() // drops the lock, if it was had
	if locked {
		return 0, 0
	}
	var b [64]byte
	n, _ := f.ReadAt(b[:], 0)
	for i, field := range strings.Fields(string(b[:n])) {
		id, err := strconv.Atoi(field)
		switch {
		case err != nil || id <= 1 || i > 1:
			return 0, 0
		case i == 0:
			pid = id
		default:
			standby = id
		}
	}
	return pid, standby
}

// stop ends the agent: kindly, then not. It returns once its lock is free.
func (a agent) stop(kind time.Duration) error {
	begun := time.Now()
	for {
		pid, standby := a.pids()
		if pid == 0 {
			return nil
		}
		sig := unix.SIGTERM
		switch waited := time.Since(begun); {
		case waited > kind+settleTimeout:
			return block.Errorf(block.Busy, "agent of %s, process %d, does not die", a.target, pid)
		case waited > kind:
			sig = unix.SIGKILL
			if standby != 0 { // it would take over
				_ = unix.Kill(standby, sig)
			}
		}
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			return block.Errorf(block.Permission, "stop the agent of %s, process %d: %w", a.target, pid, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// AgentArgs are what an agent is started with.
type AgentArgs struct{ StateDir, Target, Nonce string }

// running is the agent's own view.
type running struct {
	agent
	state *state
	lock  *os.File
	ready *os.File
}

// becomeAgent takes the agent's lock and loads the state.
func becomeAgent(args AgentArgs) (*running, error) {
	if err := checkTarget(args.Target); err != nil {
		return nil, err
	}
	unix.CloseOnExec(readyFD)
	r := &running{agent: agent{store{args.StateDir}, args.Target}, ready: os.NewFile(readyFD, "ready")}
	f, locked, err := r.lockFile(os.O_CREATE)
	switch {
	case err != nil:
		return r, block.Errorf(block.KindOfFile(err), "agent of %s: %w", args.Target, err)
	case !locked:
		_ = f.Close()
		return r, block.Errorf(block.Busy, "%s has an agent already, process %d", args.Target, r.pid())
	}
	r.lock = f
	if err := errors.Join(f.Truncate(0), r.writePIDs(0)); err != nil {
		return r, block.Errorf(block.IO, "agent of %s: %w", args.Target, err)
	}
	if r.state, err = r.store.load(args.Target); err != nil {
		return r, err
	}
	if r.state == nil || r.state.Nonce != args.Nonce {
		return r, block.Errorf(block.Fenced, "agent of %s: the attach that started it is gone", args.Target)
	}
	// The out-of-memory killer must not take what the file system waits for.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
	return r, nil
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

// current reports whether the attach that started the agent still holds.
func (r *running) current() bool {
	s, err := r.store.load(r.target)
	return err != nil || (s != nil && s.Nonce == r.state.Nonce)
}

// wanted reports whether the attachment holds and nobody is undoing it.
func (r *running) wanted() bool {
	s, err := r.store.load(r.target)
	return err != nil || (s != nil && s.Nonce == r.state.Nonce && s.Phase == phaseAttached)
}

// report tells the parent that the agent is ready, or why not, once.
func (r *running) report(text string, err error) {
	if r.ready == nil {
		return
	}
	line := "ok " + text + "\n"
	if err != nil {
		oneLine := strings.ReplaceAll(err.Error(), "\n", "; ")
		line = fmt.Sprintf("error %d %.3000s\n", block.KindOf(err), oneLine)
	}
	_, _ = r.ready.WriteString(line) // the parent may be gone
	_ = r.ready.Close()
	r.ready = nil
}
