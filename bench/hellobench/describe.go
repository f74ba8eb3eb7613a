package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/bench/hellobench/images"
	"github.com/slackerd/slacker/bench/hellobench/report"
	"github.com/slackerd/slacker/bench/hellobench/space"
	"github.com/slackerd/slacker/stack"
)

// describe adds to a report what is known of the images, and the measurement of
// space if it was made.
func describe(d *report.Data, cache, dir string) error {
	measured := map[string]bool{}
	for _, r := range d.Records {
		measured[r.Image] = true
	}
	states, err := images.States(cache)
	if err != nil {
		return err
	}
	for _, s := range states {
		i := report.Image{Name: s.Image.Name, Category: s.Image.Category}
		if s.Built != nil {
			i.Version, i.Compressed, i.Uncompressed, i.Layers = s.Built.Version, s.Built.CompressedBytes, s.Built.UncompressedBytes, len(s.Built.Layers)
		}
		switch {
		case measured[i.Name]:
			d.Images = append(d.Images, i)
		case !strings.Contains(i.Name, ":"):
			d.Missing = append(d.Missing, report.Missing{Name: i.Name, Reason: reason(s)})
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "space.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	d.Space = new(space.Result)
	return json.Unmarshal(b, d.Space)
}

func reason(s images.State) string {
	switch {
	case s.Reason != "":
		return s.Reason
	case s.Built == nil:
		return "not built in this cache"
	}
	return "not part of this run"
}

// machine is this machine, with the containerd that is used.
func machine(version stack.Version) report.Machine {
	m := report.Machine{Cores: runtime.NumCPU(), CPU: field("/proc/cpuinfo", "model name"), Containerd: "unknown"}
	m.System = strings.Trim(field("/etc/os-release", "PRETTY_NAME"), `"`)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.Memory = int64(info.Totalram) * int64(info.Unit)
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		release, _, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), "-") // the version; what follows names a build
		m.Kernel = release
	}
	programs, err := stack.FindPrograms()
	if err != nil {
		return m
	}
	path, err := programs.Path(string(version) + "/containerd")
	if err != nil {
		return m
	}
	if out, err := exec.Command(path, "--version").Output(); err == nil {
		m.Containerd = containerdVersion(string(out))
	}
	return m
}

// containerdVersion finds it in what containerd --version prints: "containerd
// MODULE VERSION REVISION".
func containerdVersion(line string) string {
	f := strings.Fields(line)
	if len(f) < 3 {
		return "unknown"
	}
	version, _, _ := strings.Cut(f[2], "+")
	return version
}

// field is the first value of a name in a file of lines.
func field(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if key, value, found := strings.Cut(strings.TrimSpace(line), ":"); found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
		if value, found := strings.CutPrefix(strings.TrimSpace(line), name+"="); found {
			return value
		}
	}
	return ""
}
