package stack

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace: a name, as ip netns has it, or a path such
// as /proc/PID/ns/net; empty is the caller's.
type Namespace string

func (n Namespace) path() string {
	if filepath.IsAbs(string(n)) {
		return string(n)
	}
	return filepath.Join("/run/netns", string(n))
}

// Command is args, to be run in the namespace.
func (n Namespace) Command(args []string) []string {
	if n == "" {
		return args
	}
	// Not ip netns exec: that gives the process mounts of its own, and what it
	// mounts then would be seen by nobody else.
	return append([]string{"nsenter", "--net=" + n.path(), "--"}, args...)
}

// Do calls f on a thread that is in the namespace. Goroutines that f starts are
// not.
func (n Namespace) Do(f func() error) error {
	if n == "" {
		return f()
	}
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace %s: %w", n, err)
	}
	defer func() { _ = home.Close() }()
	there, err := os.Open(n.path())
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace %s: %w", n, err)
	}
	defer func() { _ = there.Close() }()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace %s: %w", n, err)
	}
	defer func() {
		// A thread that cannot come home stays locked, and ends with its goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}

// Listen listens in the namespace.
func (n Namespace) Listen(network, address string) (l net.Listener, err error) {
	err = n.Do(func() error {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// DialContext connects from the namespace. The address is numeric.
func (n Namespace) DialContext(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = n.Do(func() error {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return c, err
}
