package snapshotter

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// mountPoint is where a device is mounted.
type mountPoint struct {
	dev    uint64
	source string
	dir    string
}

// mountsAt returns the mounts at a directory.
func mountsAt(dir string) ([]mountPoint, error) {
	return findMounts(func(m mountPoint) bool { return m.dir == dir })
}

func mountsOfDevice(dev uint64) ([]mountPoint, error) {
	return findMounts(func(m mountPoint) bool { return m.dev == dev })
}

func findMounts(want func(mountPoint) bool) (found []mountPoint, err error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, block.Errorf(block.IO, "read mountinfo: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		before, after, ok := strings.Cut(line, " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		var major, minor uint32
		if !ok || len(head) < 5 || len(tail) < 2 {
			continue
		}
		if _, err := fmt.Sscanf(head[2], "%d:%d", &major, &minor); err != nil {
			continue
		}
		if m := (mountPoint{unix.Mkdev(major, minor), tail[1], head[4]}); want(m) {
			found = append(found, m)
		}
	}
	return found, nil
}
