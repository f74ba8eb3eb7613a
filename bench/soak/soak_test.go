package soak

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	rounds = flag.Int("soak.rounds", 1, "how often each event happens")
	// agents is off by default: it takes a while, and TestAgentEnds of worker ends
	// agents in each run of the tests.
	agents = flag.Bool("soak.agents", false, "also end the workers' processes")
)

// requestTimeout is that of the attachments; a paused server stays so longer
// than a connection may be silent.
const (
	requestTimeout = 2 * time.Second
	serverPaused   = 2*requestTimeout + time.Second
	serverAway     = 500 * time.Millisecond
	networkAway    = 2 * time.Second
	patience       = 90 * time.Second
)

// TestSoak makes every event happen under load.
func TestSoak(t *testing.T) {
	need(t)
	b := newBed(t)
	b.startServer()
	for _, v := range []string{"probe", "fio", "files"} {
		b.run("slackerctl", "volume", "create", v, "--size", "256MiB")
	}
	client := func(args ...string) string { return strings.TrimSpace(b.run("slacker-client", args...)) }
	attach := []string{"attach", "--driver", "fuse", "--request-timeout", requestTimeout.String()}
	probe := client(append(attach, "probe")...)
	disk := client(append(attach, "fio")...)
	mount := filepath.Join(b.dir, "mnt")
	client(append(attach, "--mkfs", "--mount", mount, "files")...)
	kernel := openKernelLog(t)

	p := startProber(t, probe)
	fio := startFio(t, disk)
	dbs := startDatabases(t, mount)
	dbs.progress(t)
	for round := range *rounds {
		for _, e := range b.events() {
			if e.agents && !*agents {
				continue
			}
			p.reset()
			begun := time.Now()
			e.happen()
			p.progress(t, 50)
			fio.alive(t)
			pause := p.reset()
			b.pauses[e.name] = append(b.pauses[e.name], pause)
			t.Logf("round %d: %-42s longest wait %8v of %v", round+1, e.name, pause.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
		}
	}
	dbs.progress(t)
	p.stop(t)
	fio.stop(t)
	dbs.stop(t)
	for _, v := range []string{"probe", "fio", "files"} {
		client("detach", v)
	}
	kernel.check(t)
	device := client(append(attach, "--read-only", "files")...)
	if out, err := exec.Command("e2fsck", "-fn", device).CombinedOutput(); err != nil {
		t.Errorf("fsck: %v\n%s", err, out)
	}
	client("detach", "files")
	b.table()
}

func need(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for devices and network namespaces")
	}
	for _, path := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(path); err != nil {
			t.Skip(err)
		}
	}
	for _, tool := range []string{"ip", "fio", "redis-check-rdb", "redis-cli", "python3", "e2fsck"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: run make setup", tool)
		}
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	var major, minor int
	if _, err := fmt.Sscanf(string(release), "%d.%d", &major, &minor); err != nil || major < 6 || major == 6 && minor < 9 {
		t.Skipf("Linux %.20s: a FUSE file system cannot change its process before 6.9", release)
	}
}

// kernelLog is the kernel's log from now on.
type kernelLog struct{ before int }

func kernelErrors() (n int, last string) {
	out, err := exec.Command("dmesg").Output()
	if err != nil {
		return 0, ""
	}
	for line := range bytes.Lines(out) {
		if bytes.Contains(line, []byte("I/O error")) || bytes.Contains(line, []byte("EXT4-fs error")) || bytes.Contains(line, []byte("emounting filesystem read-only")) {
			n, last = n+1, string(line)
		}
	}
	return n, last
}

func openKernelLog(t *testing.T) kernelLog {
	t.Helper()
	n, _ := kernelErrors()
	return kernelLog{n}
}

// check reports errors since. Others on this machine may cause some too, so
// the message says what it saw.
func (k kernelLog) check(t *testing.T) {
	t.Helper()
	if n, last := kernelErrors(); n > k.before {
		t.Logf("note: the kernel logged %d I/O errors meanwhile, the last: %s", n-k.before, last)
	}
}
