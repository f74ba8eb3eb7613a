package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// How long things may take.
const (
	readyTimeout = 30 * time.Second
	stopTimeout  = 10 * time.Second
	pollInterval = 5 * time.Millisecond
	logTailBytes = 4096
)

// Command describes a process to start.
type Command struct {
	Name string   // for messages
	Args []string // with the program
	Env  []string // besides the caller's; later ones win
	Dir  string   // the working directory
	Log  string   // a file that gets standard output and error; made anew

	Netns Namespace // where it runs

	// Ready returns nil when the service answers. It is called again and again
	// until it does, the process dies, or the context ends. Nil means at once.
	Ready func(context.Context) error
}

// Process is a running program.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it was waited for

	once sync.Once
	err  error // of Wait
}

// StartProcess starts a program and waits until it is ready.
func StartProcess(ctx context.Context, c Command) (*Process, error) {
	if err := os.MkdirAll(filepath.Dir(c.Log), 0o755); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	log, err := os.Create(c.Log)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	defer func() { _ = log.Close() }() // the child has its own
	args := c.Netns.Command(c.Args)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.Dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	p := &Process{name: c.Name, log: c.Log, cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := p.await(ctx, c.Ready); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

// await polls until the process is ready.
func (p *Process) await(ctx context.Context, ready func(context.Context) error) error {
	if ready == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("start %s: it ended (%v); its log ends with:\n%s", p.name, p.err, p.LogTail())
		case <-ctx.Done():
			return fmt.Errorf("start %s: not ready: %w; its log ends with:\n%s", p.name, errors.Join(err, ctx.Err()), p.LogTail())
		case <-time.After(pollInterval):
		}
	}
}

// Pid is the id of the process.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// LogTail is the end of what the process has logged.
func (p *Process) LogTail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-logTailBytes):]))
}

// Stop asks the process to end, kills its process group if it does not, and
// returns when it has ended.
func (p *Process) Stop() { p.stop(syscall.SIGTERM) }

// Kill ends the process at once, as a crash would.
func (p *Process) Kill() { p.stop(syscall.SIGKILL) }

func (p *Process) stop(sig syscall.Signal) {
	if p == nil {
		return
	}
	p.once.Do(func() {
		_ = p.cmd.Process.Signal(sig) // it may have ended
		select {
		case <-p.done:
		case <-time.After(stopTimeout):
		}
		_ = syscall.Kill(-p.Pid(), syscall.SIGKILL) // and what it left in its group
		<-p.done
	})
}

// run runs a program to its end; an error has what it printed.
func run(ctx context.Context, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}
