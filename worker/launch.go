package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// readyFD is the agent's end of a socket. Over it the agent is told to begin, and
// reports that it is ready, or why not.
const (
	readyFD       = 3
	maxReadyBytes = 4096
	wordBegin     = 'b'
)

// launched is the process of an agent that has been started and waits for the
// word to begin. Until then it touches nothing; without the word it ends. So it
// can start, which takes longest of all, while the server makes the attachment.
type launched struct {
	agent
	name string
	cmd  *exec.Cmd
	line net.Conn // nil once the agent was told to begin, or abandoned
	// ended is closed when the process has ended, exit then says how.
	ended chan struct{}
	exit  error
}

// launch runs EXECUTABLE NAME STATEDIR TARGET NONCE in a session of its own.
func (a agent) launch(executable, name, nonce string) (*launched, error) {
	fail := func(err error) (*launched, error) {
		return nil, block.Errorf(block.IO, "start %s for %s: %w", name, a.target, err)
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return fail(err)
	}
	cmd := exec.Command(executable, name, a.store.dir, a.target, nonce)
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	err = startFlusher(cmd)
	_ = theirs.Close()
	if err != nil {
		_ = ours.Close()
		return fail(err)
	}
	l := &launched{agent: a, name: name, cmd: cmd, line: ours, ended: make(chan struct{})}
	go func() { defer close(l.ended); l.exit = cmd.Wait() }() // it outlives us, or is reaped here
	return l, nil
}

// socketPair returns two connected sockets: one for here, one to be inherited.
func socketPair() (ours net.Conn, theirs *os.File, err error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	file := os.NewFile(uintptr(ends[0]), "line")
	theirs = os.NewFile(uintptr(ends[1]), "line")
	ours, err = net.FileConn(file)
	_ = file.Close() // ours has a descriptor of its own
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// begin tells the agent to begin, waits until it is ready and returns what it
// reported.
func (l *launched) begin(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, agentStartTimeout)
	defer cancel()
	line := l.line
	l.line = nil
	defer func() { _ = line.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = line.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_, _ = line.Write([]byte{wordBegin}) // of one that is dead, the answer tells
	text, err := bufio.NewReaderSize(line, maxReadyBytes).ReadString('\n')
	if ok, found := strings.CutPrefix(strings.TrimSpace(text), "ok "); found && err == nil {
		return ok, nil
	}
	if text, found := strings.CutPrefix(text, "error "); found && err == nil {
		kind, text, _ := strings.Cut(strings.TrimSpace(text), " ")
		n, _ := strconv.ParseUint(kind, 10, 8)
		return "", block.Errorf(block.Kind(n), "%s", text)
	}
	_ = l.cmd.Process.Kill()
	<-l.ended
	if ctx.Err() != nil {
		return "", block.Errorf(block.Unavailable, "start %s for %s: not ready: %w", l.name, l.target, context.Cause(ctx))
	}
	return "", block.Errorf(block.Internal, "start %s for %s: it died (%v): %s", l.name, l.target, l.exit, l.lastWords())
}

// abandon ends an agent that was never told to begin, and waits for its end.
func (l *launched) abandon() {
	if l.line == nil {
		return
	}
	_ = l.line.Close()
	l.line = nil
	_ = l.cmd.Process.Kill() // it has touched nothing
	<-l.ended
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

// awaitWord waits until the agent is to begin and opens its log. A program of
// before there was the word, which may still run after an upgrade, starts agents
// with a pipe that is only written to, and with the log.
func (r *running) awaitWord() error {
	var word [1]byte
	for {
		n, err := unix.Read(readyFD, word[:])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EBADF:
			return nil
		case err != nil || n == 0:
			return block.Errorf(block.Fenced, "agent of %s: whoever started it has gone: %w", r.target, errors.Join(err, io.EOF))
		}
		return r.openLog()
	}
}

// openLog makes the log standard output and error.
func (r *running) openLog() error {
	f, err := os.OpenFile(r.store.path(keyOf(r.target), ".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return block.Errorf(block.KindOfFile(err), "agent of %s: %w", r.target, err)
	}
	defer func() { _ = f.Close() }() // it stays open as the others
	for fd := 1; fd <= 2; fd++ {
		if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
			return block.Errorf(block.IO, "agent of %s: its log: %w", r.target, err)
		}
	}
	return nil
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

// stepsOf writes names and times so that tellSteps can read them.
func stepsOf(namesAndTimes ...any) string {
	var b strings.Builder
	for i := 0; i+1 < len(namesAndTimes); i += 2 {
		fmt.Fprintf(&b, ";%v=%d", namesAndTimes[i], namesAndTimes[i+1].(time.Duration).Microseconds())
	}
	return b.String()
}

// tellSteps tells step of what an agent reported.
func tellSteps(report string, step func(name string, took time.Duration)) {
	for _, part := range strings.Split(report, ";")[1:] {
		name, micros, _ := strings.Cut(part, "=")
		if n, err := strconv.ParseInt(micros, 10, 64); err == nil {
			step("  "+name, time.Duration(n)*time.Microsecond)
		}
	}
}
