package worker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const maxUsersShown = 5

// users names the processes that use path: a device they have open, or a
// directory they have files open or live under. It is a hint for a message,
// " by NAME (PID), ...", or nothing.
func users(path string) string {
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	more, err := filepath.Glob("/proc/[0-9]*/[cr][wo][do]*") // cwd and root
	if err != nil {
		return ""
	}
	seen := map[string]bool{}
	var names []string
	for _, link := range append(links, more...) {
		to, err := os.Readlink(link)
		if err != nil || (to != path && !strings.HasPrefix(to, strings.TrimSuffix(path, "/")+"/")) {
			continue
		}
		pid := strings.Split(link, "/")[2]
		if seen[pid] {
			continue
		}
		seen[pid] = true
		comm, err := os.ReadFile("/proc/" + pid + "/comm")
		if err == nil && len(names) < maxUsersShown {
			names = append(names, fmt.Sprintf("%s (%s)", strings.TrimSpace(string(comm)), pid))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return " by " + strings.Join(names, ", ")
}
