package worker

import (
	"context"
	"errors"
	"os"
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

// agent is the background process of one target.
type agent struct {
	store  store
	target string
}

// start launches an agent and has it begin.
func (a agent) start(ctx context.Context, executable, name, nonce string) (string, error) {
	l, err := a.launch(executable, name, nonce)
	if err != nil {
		return "", err
	}
	return l.begin(ctx)
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
	born  time.Time
}

// becomeAgent takes the agent's lock and loads the state.
func becomeAgent(args AgentArgs) (*running, error) {
	if err := checkTarget(args.Target); err != nil {
		return nil, err
	}
	unix.CloseOnExec(readyFD)
	r := &running{agent: agent{store{args.StateDir}, args.Target}, ready: os.NewFile(readyFD, "ready"), born: time.Now()}
	if err := r.awaitWord(); err != nil {
		return r, err
	}
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
