package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/fusefile"
)

// Descriptors of a standby.
const (
	standbyLineFD   = 3 // ends when the agent dies
	standbyLockFD   = 4 // the agent's lock, which so outlives it
	standbyDeviceFD = 5 // /dev/fuse, of a FUSE daemon; what a monitor hands over
)

const (
	standbyDelay   = 300 * time.Millisecond // an attach should not compete with it
	standbyPause   = time.Second            // between two that die young
	standbyStart   = 10 * time.Second       // bounds the start of one
	maxStandbyLine = 4096
	standbyVersion = 1
	standbyReady   = "ready\n"
	standbyBye     = "bye\n"
	standbyPaused  = "paused\n" // the monitor has paused its link, and ends
)

// briefing is what an agent tells its standby, in one line of JSON.
type briefing struct {
	Version int                `json:"version"`
	Role    string             `json:"role"` // AgentMonitor or AgentFuseDaemon
	Fuse    *fusefile.Settings `json:"fuse,omitempty"`
	// Link: the standby has the socket of a monitor's link, for the case that the
	// monitor says that it has paused it.
	Link bool `json:"link,omitempty"`
}

// standby is the process that takes an agent's place when it dies: it holds
// what must not close with the agent, and waits for the end of a socket.
type standby struct {
	cmd   *exec.Cmd
	line  net.Conn
	ended chan struct{} // closed when the process has ended
}

// startStandby starts a standby and waits until it is ready.
func (r *running) startStandby(ctx context.Context, b briefing, device *os.File) (*standby, error) {
	fail := func(err error) error {
		return block.Errorf(block.Internal, "start a standby of the agent of %s: %w", r.target, err)
	}
	// The file of the running program may have been replaced: by what is there now.
	executable, err := os.Executable()
	if err != nil {
		return nil, fail(err)
	}
	line, theirs, err := socketPair()
	if err != nil {
		return nil, fail(err)
	}
	cmd := exec.Command(executable, AgentStandby, r.store.dir, r.target, r.state.Nonce)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stderr, os.Stderr, []*os.File{theirs, r.lock}
	if device != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, device)
	}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	err = startFlusher(cmd)
	_ = theirs.Close()
	if err != nil {
		_ = line.Close()
		return nil, fail(err)
	}
	s := &standby{cmd: cmd, line: line, ended: make(chan struct{})}
	go func() { defer close(s.ended); _ = cmd.Wait() }()
	if err := s.brief(ctx, b); err != nil {
		s.dismiss()
		return nil, fail(err)
	}
	return s, nil
}

// brief tells the standby what it needs and waits until it has understood.
func (s *standby) brief(ctx context.Context, b briefing) error {
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, standbyStart)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.line.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := s.line.Write(append(text, '\n')); err != nil {
		return err
	}
	answer, err := bufio.NewReaderSize(s.line, maxStandbyLine).ReadString('\n')
	if err == nil && answer != standbyReady {
		err = fmt.Errorf("it says %.100q", answer)
	}
	return err
}

// dismiss ends the standby, which does not take over then.
func (s *standby) dismiss() {
	_ = s.line.SetDeadline(time.Now().Add(time.Second))
	_, _ = s.line.Write([]byte(standbyBye)) // or it is dead already
	select {
	case <-s.ended:
	case <-time.After(time.Second):
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
	_ = s.line.Close()
}

// freshStandby asks for a standby of the program as it is now, which is to take over
// at once.
type freshStandby struct {
	briefing briefing
	device   *os.File
	answer   chan<- error
	line     *net.Conn // to it; is set before the answer nil
}

// keeper keeps one standby of an agent alive.
type keeper struct {
	agent    *running
	briefing briefing
	device   *os.File
	log      *zap.Logger
	fresh    chan freshStandby
	stop     context.CancelFunc
	done     chan struct{}
}

// keepStandby starts a standby after delay, and another whenever it dies.
func (r *running) keepStandby(b briefing, device *os.File, delay time.Duration, log *zap.Logger) *keeper {
	ctx, stop := context.WithCancel(context.Background())
	k := &keeper{agent: r, briefing: b, device: device, log: log, fresh: make(chan freshStandby), stop: stop, done: make(chan struct{})}
	go func() { defer close(k.done); k.run(ctx, delay) }()
	return k
}

func (k *keeper) run(ctx context.Context, delay time.Duration) {
	var current *standby
	var ended <-chan struct{}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	start := func(b briefing, device *os.File) error {
		next, err := k.agent.startStandby(ctx, b, device)
		if err != nil {
			return err
		}
		if current != nil {
			current.dismiss()
		}
		current, ended = next, next.ended
		return k.agent.writePIDs(next.cmd.Process.Pid)
	}
	for {
		select {
		case <-ctx.Done():
			if current != nil {
				current.dismiss()
			}
			return
		case <-ended:
			k.log.Warn("the standby has died")
			_ = current.line.Close()
			current, ended = nil, nil
			timer.Reset(standbyPause)
		case f := <-k.fresh:
			err := start(f.briefing, f.device)
			if err == nil {
				*f.line = current.line
			}
			f.answer <- err
		case <-timer.C:
			if err := start(k.briefing, k.device); err != nil && ctx.Err() == nil {
				k.log.Warn("no standby: should this process die, so does its device", zap.Error(err))
				timer.Reset(standbyPause)
			}
		}
	}
}

// dismiss ends the standby for good: the agent is going to end.
func (k *keeper) dismiss() {
	if k == nil {
		return
	}
	k.stop()
	<-k.done
}

// handOver makes sure of a standby that runs the program as it is now. Once it
// returns nil the agent is to end at once, without dismissing it.
func (k *keeper) handOver() error {
	if k == nil {
		return block.Errorf(block.Unsupported, "this kernel cannot change the process that serves a FUSE file system: want Linux 6.9 or later")
	}
	_, err := k.handOverTo(k.briefing, k.device)
	return err
}

// handOverTo is handOver to a standby with a briefing and device of its own. It
// returns the line to it.
func (k *keeper) handOverTo(b briefing, device *os.File) (line net.Conn, err error) {
	answer := make(chan error, 1)
	k.fresh <- freshStandby{b, device, answer, &line}
	err = <-answer
	return line, err
}

// writePIDs notes the agent's process and its standby's in the lock file.
func (r *running) writePIDs(standby int) error {
	text := strconv.Itoa(os.Getpid())
	if standby != 0 {
		text += " " + strconv.Itoa(standby)
	}
	// One write, and blanks over what was longer: readers do not wait for us.
	return writeAt(r.lock, fmt.Sprintf("%-24s\n", text))
}

// RunStandby waits for the end of an agent and takes its place, unless it was
// dismissed.
func RunStandby(args AgentArgs, logger *zap.Logger) error {
	if err := checkTarget(args.Target); err != nil {
		return err
	}
	for fd := standbyLineFD; fd <= standbyDeviceFD; fd++ {
		unix.CloseOnExec(fd)
	}
	// What ends the agent is not meant for its standby, and never ends this process
	// by itself: the role listens, too, but has no standby at first.
	listen()
	r := &running{agent: agent{store{args.StateDir}, args.Target}, lock: os.NewFile(standbyLockFD, "lock")}
	line := os.NewFile(standbyLineFD, "line")
	b, last, err := awaitEnd(line)
	if err != nil || last == standbyBye {
		return err
	}
	_ = line.Close()
	died := time.Now()
	if r.state, err = r.store.load(r.target); err != nil {
		return err
	}
	if r.state == nil || r.state.Nonce != args.Nonce || r.state.Phase == phaseDetaching {
		return nil // the agent was to end
	}
	if err := r.writePIDs(0); err != nil {
		return block.Errorf(block.IO, "standby of %s: %w", r.target, err)
	}
	logger.Warn("the agent has ended: its standby takes over", zap.String("target", r.target), zap.String("role", b.Role))
	switch b.Role {
	case AgentMonitor:
		kernel, err := openLinks()
		if err != nil {
			return err
		}
		defer kernel.close()
		return r.monitor(kernel, handedOver(b, last), logger)
	case AgentFuseDaemon:
		return r.takeOverFuse(b, os.NewFile(standbyDeviceFD, "/dev/fuse"), died, logger)
	}
	return block.Errorf(block.Internal, "standby of %s: role %q", r.target, b.Role)
}

// awaitEnd is briefed over line and waits for its end, or for the dismissal. It
// returns the agent's last word, if there was one.
func awaitEnd(line *os.File) (b briefing, last string, err error) {
	in := bufio.NewReaderSize(line, maxStandbyLine)
	text, err := in.ReadSlice('\n')
	if err == nil {
		err = json.Unmarshal(text, &b)
	}
	if err == nil && b.Version != standbyVersion {
		err = fmt.Errorf("the agent speaks version %d, want %d", b.Version, standbyVersion)
	}
	if err == nil {
		_, err = line.WriteString(standbyReady)
	}
	if err != nil {
		return b, "", block.Errorf(block.Invalid, "standby: %w", err)
	}
	for {
		word, err := in.ReadString('\n')
		if err != nil { // however it ends, the agent is gone
			return b, last, nil
		}
		if last = word; last == standbyBye {
			return b, last, nil
		}
	}
}
