package drive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/stack"
)

// ours are names of namespaces and directories of a bed, with the process's id.
var ours = regexp.MustCompile(`^hb([0-9]+)-`)

// sweep removes what a bed that was killed has left: its processes have ended with
// it, but not its namespaces, mounts, loop devices and files.
func sweep() {
	for _, path := range append(glob("/run/netns/hb*"), glob(filepath.Join(os.TempDir(), "hb*"))...) {
		m := ours.FindStringSubmatch(filepath.Base(path))
		if m == nil {
			continue
		}
		if _, err := os.Stat("/proc/" + m[1]); !errors.Is(err, os.ErrNotExist) {
			continue // it lives
		}
		if filepath.Dir(path) == "/run/netns" {
			_ = removeNamespace(stack.Namespace(filepath.Base(path))) // the next one tries again
			continue
		}
		killThoseOf(path)
		for _, at := range slices.Backward(stack.MountsBelow(path)) {
			_ = unix.Unmount(at, unix.MNT_DETACH)
		}
		detachLoops(path)
		if left := stack.MountsBelow(path); len(left) == 0 {
			_ = os.RemoveAll(path)
		} else {
			fmt.Fprintf(os.Stderr, "hellobench: %s is still mounted, of a run that was killed\n", left[0])
		}
	}
}

// killThoseOf kills the agents that name a directory: file systems on devices whose
// server is gone would wait for it, and with them all that unmounts them.
func killThoseOf(dir string) {
	for _, cmdline := range glob("/proc/[0-9]*/cmdline") {
		b, err := os.ReadFile(cmdline)
		if err != nil || !strings.Contains(string(b), "\x00"+dir+"/") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(cmdline))); err == nil {
			_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
		}
	}
}

// detachLoops detaches loop devices of files in a directory, also of deleted ones.
func detachLoops(dir string) {
	for _, backing := range glob("/sys/block/loop*/loop/backing_file") {
		b, err := os.ReadFile(backing)
		if err != nil || !strings.HasPrefix(string(b), dir+"/") {
			continue
		}
		device := filepath.Base(filepath.Dir(filepath.Dir(backing)))
		_, _ = command(context.Background(), "", "losetup", "--detach", "/dev/"+device) // the next one tries again
	}
}

func glob(pattern string) []string {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return nil // the patterns are fixed
	}
	return paths
}
