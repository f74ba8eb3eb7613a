package worker

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/slackerd/slacker/block"
)

const maxMountinfoBytes = 64 << 20

// mountPoint is one row of /proc/self/mountinfo.
type mountPoint struct {
	dev    string // MAJOR:MINOR
	dir    string
	fsType string
	source string
}

// mounts reads the mount points of this name space.
func mounts() ([]mountPoint, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || len(b) > maxMountinfoBytes {
		return nil, block.Errorf(block.IO, "read mountinfo of %d bytes: %w", len(b), err)
	}
	return parseMountinfo(b)
}

func parseMountinfo(b []byte) (list []mountPoint, err error) {
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(head) < 5 || len(tail) < 2 {
			return nil, block.Errorf(block.Unsupported, "mountinfo line %.200q is not understood", lines.Text())
		}
		list = append(list, mountPoint{dev: head[2], dir: unescape(head[4]), fsType: tail[0], source: unescape(tail[1])})
	}
	return list, lines.Err()
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	var out []byte
	for i := 0; i < len(s); i++ {
		var c byte
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := fmt.Sscanf(s[i+1:i+4], "%03o", &c); n == 1 && err == nil {
				out = append(out, c)
				i += 3
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

// mountsOf returns where a block device is mounted, last mounted first.
func mountsOf(device string) ([]string, error) {
	if device == "" {
		return nil, nil
	}
	dev, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(device), "dev"))
	if err != nil {
		return nil, nil // the device is gone, and its mounts with it
	}
	list, err := mounts()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].dev == strings.TrimSpace(string(dev)) {
			dirs = append(dirs, list[i].dir)
		}
	}
	return dirs, nil
}

// isMounted reports whether something is mounted at dir.
func isMounted(dir string) (bool, error) {
	list, err := mounts()
	for _, m := range list {
		if m.dir == dir {
			return true, nil
		}
	}
	return false, err
}
