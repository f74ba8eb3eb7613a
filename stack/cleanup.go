package stack

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endContainers ends and deletes all containers, as far as containerd still
// answers.
func (c *Containerd) endContainers() {
	select {
	case <-c.process.Done():
		return
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	namespaces, err := c.Ctr(ctx, "namespaces", "list", "-q")
	if err != nil {
		return
	}
	for _, ns := range strings.Fields(namespaces) {
		tasks, _ := c.Ctr(ctx, "-n", ns, "tasks", "list", "-q")
		for _, id := range strings.Fields(tasks) {
			_, _ = c.Ctr(ctx, "-n", ns, "tasks", "delete", "--force", id) // the shim is ended below if this fails
		}
		containers, _ := c.Ctr(ctx, "-n", ns, "containers", "list", "-q")
		for _, id := range strings.Fields(containers) {
			_, _ = c.Ctr(ctx, "-n", ns, "containers", "delete", id)
		}
	}
}

// endShims ends the shims of a containerd by its address, and the containers
// they hold.
func endShims(address string) {
	for deadline := time.Now().Add(stopTimeout); ; time.Sleep(pollInterval) {
		shims := shimsOf(address)
		if len(shims) == 0 || time.Now().After(deadline) {
			return
		}
		for _, pid := range shims {
			for _, child := range childrenOf(pid) {
				_ = syscall.Kill(child, syscall.SIGKILL)
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func shimsOf(address string) []int {
	var pids []int
	for _, pid := range allPids() {
		cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(cmdline), "\x00")
		if strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") && slices.Contains(args, address) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func childrenOf(parent int) []int {
	var pids []int
	for _, pid := range allPids() {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil {
			continue
		}
		// The name in parentheses may have spaces; after it come state and parent.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func allPids() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// unmountBelow unmounts all that is mounted below a directory, last mounted
// first.
func unmountBelow(dir string) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return
	}
	mounts := MountsBelow(dir)
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m, 0); errors.Is(err, unix.EBUSY) {
			_ = unix.Unmount(m, unix.MNT_DETACH)
		}
	}
}

// MountsBelow is what is mounted below a directory, in the order of mounting.
func MountsBelow(dir string) []string {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var mounts []string
	for line := range strings.Lines(string(info)) {
		if fields := strings.Fields(line); len(fields) > 4 {
			at := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4])
			if strings.HasPrefix(at, dir+"/") {
				mounts = append(mounts, at)
			}
		}
	}
	return mounts
}
