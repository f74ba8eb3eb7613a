package drive

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"

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
		for _, at := range slices.Backward(stack.MountsBelow(path)) {
			_ = unix.Unmount(at, unix.MNT_DETACH)
		}
		if left := stack.MountsBelow(path); len(left) == 0 {
			_ = os.RemoveAll(path)
		} else {
			fmt.Fprintf(os.Stderr, "hellobench: %s is still mounted, of a run that was killed\n", left[0])
		}
	}
}

func glob(pattern string) []string {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return nil // the patterns are fixed
	}
	return paths
}
