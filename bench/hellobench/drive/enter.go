package drive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/stack"
)

// EnterArg is the first argument of the program when it is the child that becomes
// the task: see Enter.
const EnterArg = "enter-root"

// entry tells the child what to become.
type entry struct {
	Root  string
	Netns stack.Namespace
	Dir   string
	Args  []string
	Env   []string
	User  string
	Binds map[string]string // directory of the host to directory in the root
}

// Enter is called by main, and by TestMain of tests that run tasks, before all
// else: in the child that is to become a task it does not return.
func Enter() {
	if len(os.Args) != 3 || os.Args[1] != EnterArg {
		return
	}
	err := enter(os.Args[2])
	fmt.Fprintln(os.Stderr, "enter:", err)
	os.Exit(127)
}

// enter runs in mount, process and IPC namespaces of its own.
func enter(arg string) error {
	var e entry
	if err := json.Unmarshal([]byte(arg), &e); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := mountInto(e); err != nil {
		return err
	}
	return e.Netns.Do(func() error {
		runtime.LockOSThread()
		if err := pivot(e.Root); err != nil {
			return fmt.Errorf("enter %s: %w", e.Root, err)
		}
		if err := os.Chdir(e.Dir); err != nil {
			return err
		}
		program, err := lookPath(e.Args[0], e.Env)
		if err != nil {
			return err
		}
		return fmt.Errorf("exec %s: %w", program, unix.Exec(program, e.Args, e.Env))
	})
}

// pivot makes a mount the root, and lets go of all other mounts: those of other
// tasks would be busy as long as this one runs.
func pivot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	return os.Chdir("/")
}

func mountInto(e entry) error {
	in := func(dir string) string { return filepath.Join(e.Root, dir) }
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"proc", "proc", "proc", unix.MS_NOSUID | unix.MS_NODEV, ""},
		{"/dev", "dev", "", unix.MS_BIND | unix.MS_REC, ""},
		{"shm", "dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "size=64m"},
		{"run", "run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
	} {
		if err := os.MkdirAll(in(m.target), 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, in(m.target), m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	for host, dir := range e.Binds {
		if err := os.MkdirAll(in(dir), 0o755); err != nil {
			return err
		}
		if err := unix.Mount(host, in(dir), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", dir, err)
		}
	}
	return nil
}

func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, v := range env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			path = p
		}
	}
	for dir := range strings.SplitSeq(path, ":") {
		p := filepath.Join(dir, name)
		if info, err := os.Stat(p); err == nil && info.Mode()&0o111 != 0 && !info.IsDir() {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not found in %s", name, path)
}

// commandOf is what an image runs for its task: its entry point, with its own
// command if the task has none.
func commandOf(i Image) []string {
	args := i.Task.Args
	if len(args) == 0 {
		args = i.Config.Cmd
	}
	return append(append([]string{}, i.Config.Entrypoint...), args...)
}

func envOf(c v1.Config, more []string) []string {
	env := append([]string{"HOME=/root"}, c.Env...)
	return append(env, more...)
}

// chroot is a task in a chroot.
type chroot struct {
	running
	cmd   *exec.Cmd
	ended chan struct{}
	files string // removed at the end
}

// startChroot starts the task of an image in a root file system.
func (b *Bed) startChroot(i Image, root string, ns stack.Namespace) (*chroot, error) {
	files, err := b.mountFiles(i)
	if err != nil {
		return nil, err
	}
	e := entry{Root: root, Netns: ns, Dir: i.Config.WorkingDir, Args: commandOf(i), Env: envOf(i.Config, i.Task.Env)}
	if e.Dir == "" {
		e.Dir = "/"
	}
	if files != "" {
		e.Binds = map[string]string{files: i.Task.Mount}
	}
	arg, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &chroot{cmd: exec.Command(self, EnterArg, string(arg)), ended: make(chan struct{}), files: files}
	out := newOutput(wanted(i.Task))
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = strings.NewReader(i.Task.Stdin), out, out
	c.cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC,
		Setpgid:    true, Pdeathsig: syscall.SIGKILL,
	}
	if err := c.cmd.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(files))
	}
	exited := make(chan exit, 1)
	go func() {
		err := c.cmd.Wait()
		var status *exec.ExitError
		if errors.As(err, &status) {
			err = nil
		}
		exited <- exit{c.cmd.ProcessState.ExitCode(), err}
		close(c.ended)
	}()
	c.running = running{out, exited, func(ctx context.Context, network, address string) (net.Conn, error) {
		return ns.DialContext(ctx, network, address)
	}}
	return c, nil
}

// end kills the task and all its processes.
func (c *chroot) end() error {
	_ = c.cmd.Process.Kill() // it is the first of its process namespace; it may have ended
	<-c.ended
	if c.files == "" {
		return nil
	}
	return os.RemoveAll(c.files)
}
