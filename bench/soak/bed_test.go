package soak

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bed is a server in a network namespace, and the programs.
type bed struct {
	t        *testing.T
	dir      string
	ns, link string // the namespace, and the host's end of the pair
	here, at string // addresses of the host and of the server
	server   *exec.Cmd
	pauses   map[string][]time.Duration
}

func newBed(t *testing.T) *bed {
	t.Helper()
	dir, err := os.MkdirTemp("", "soak")
	if err != nil {
		t.Fatal(err)
	}
	id := os.Getpid() % 60000
	b := &bed{t: t, dir: dir, ns: fmt.Sprintf("soak-%d", id), link: fmt.Sprintf("soak%d", id), pauses: map[string][]time.Duration{}}
	b.here, b.at = fmt.Sprintf("10.213.%d.%d", id/250, id%250), fmt.Sprintf("10.214.%d.%d", id/250, id%250)
	t.Cleanup(b.clear)
	cmd := exec.Command("go", "build", "-o", dir, "./cmd/slackerd", "./cmd/slackerctl", "./cmd/slacker-client")
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for _, args := range [][]string{
		{"netns", "add", b.ns},
		{"link", "add", b.link, "type", "veth", "peer", "name", "far", "netns", b.ns},
		{"addr", "add", b.here + "/32", "peer", b.at + "/32", "dev", b.link},
		{"link", "set", b.link, "up"},
		{"-n", b.ns, "addr", "add", b.at + "/32", "peer", b.here + "/32", "dev", "far"},
		{"-n", b.ns, "link", "set", "dev", "far", "up"},
		{"-n", b.ns, "link", "set", "dev", "lo", "up"},
	} {
		b.ip(args...)
	}
	return b
}

func (b *bed) ip(args ...string) {
	b.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		b.t.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

// clear removes everything, whatever has happened.
func (b *bed) clear() {
	if b.server != nil && b.server.ProcessState == nil {
		_ = b.server.Process.Signal(syscall.SIGCONT)
	}
	for _, v := range []string{"probe", "fio", "files"} {
		_ = exec.Command(filepath.Join(b.dir, "slacker-client"), "--state-dir", filepath.Join(b.dir, "state"), "--server", b.api(), "detach", "--force", v).Run()
	}
	b.kill(syscall.SIGKILL)
	if b.t.Failed() {
		for _, name := range []string{"slackerd.log", "state/*.log"} {
			files, _ := filepath.Glob(filepath.Join(b.dir, name))
			for _, f := range files {
				text, _ := os.ReadFile(f)
				b.t.Logf("%s:\n%s", f, text[max(0, len(text)-6000):])
			}
		}
	}
	_ = exec.Command("ip", "link", "del", b.link).Run()
	_ = exec.Command("ip", "netns", "del", b.ns).Run()
	if err := os.RemoveAll(b.dir); err != nil {
		b.t.Error(err)
	}
}

func (b *bed) api() string { return "http://" + b.at + ":10810" }

// run runs a program and returns what it prints.
func (b *bed) run(name string, args ...string) string {
	b.t.Helper()
	args = append([]string{"--server", b.api()}, args...)
	if name == "slacker-client" {
		args = append([]string{"--state-dir", filepath.Join(b.dir, "state")}, args...)
	}
	var errs bytes.Buffer
	cmd := exec.Command(filepath.Join(b.dir, name), args...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("%s %v: %v: %s", name, args, err, errs.String())
	}
	return string(out)
}

func (b *bed) startServer() {
	b.t.Helper()
	before := b.served("serving")
	log, err := os.OpenFile(filepath.Join(b.dir, "slackerd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	b.server = exec.Command("nsenter", "--net=/run/netns/"+b.ns, "--", filepath.Join(b.dir, "slackerd"), "serve",
		"--data-dir", filepath.Join(b.dir, "data"), "--nbd-listen", "tcp://"+b.at+":10809", "--api-listen", "tcp://"+b.at+":10810", "--allow-insecure-listen")
	b.server.Stderr = log
	if err := b.server.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.await("the server to serve", func() bool { return b.served("serving") > before })
}

// served counts a message in the server's log.
func (b *bed) served(message string) int {
	text, _ := os.ReadFile(filepath.Join(b.dir, "slackerd.log"))
	return bytes.Count(text, []byte(`"msg":"`+message+`"`))
}

func (b *bed) kill(s syscall.Signal) {
	if b.server != nil && b.server.ProcessState == nil {
		_ = b.server.Process.Signal(s)
		_ = b.server.Wait()
	}
}

func (b *bed) await(what string, done func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// agents returns the processes of all agents and of their standbys.
func (b *bed) agents() (agents, standbys []int) {
	files, _ := filepath.Glob(filepath.Join(b.dir, "state", "*.agent"))
	for _, f := range files {
		text, _ := os.ReadFile(f)
		for i, field := range strings.Fields(string(text)) {
			pid, _ := strconv.Atoi(field)
			if i == 0 {
				agents = append(agents, pid)
			} else {
				standbys = append(standbys, pid)
			}
		}
	}
	return agents, standbys
}

// endAgents sends a signal to all agents or standbys, and waits until others
// are there, with standbys.
func (b *bed) endAgents(standbys bool, s syscall.Signal) {
	b.t.Helper()
	ready := func() bool { a, c := b.agents(); return len(a) == 3 && len(c) == 3 }
	b.await("standbys", ready)
	old, other := b.agents()
	if standbys {
		old = other
	}
	for _, pid := range old {
		_ = syscall.Kill(pid, s)
	}
	b.await("new agents", func() bool {
		a, c := b.agents()
		now := append(a, c...)
		return ready() && !slices.ContainsFunc(old, func(pid int) bool { return slices.Contains(now, pid) })
	})
}

type event struct {
	name   string
	agents bool // ends processes of the worker
	happen func()
}

func (b *bed) events() []event {
	return []event{
		{"upgrade of slackerd (SIGUSR2)", false, func() {
			n := b.served("upgraded")
			_ = b.server.Process.Signal(syscall.SIGUSR2)
			b.await("the upgrade", func() bool { return b.served("upgraded") > n })
		}},
		{"kill -9 of slackerd, start at once", false, func() { b.kill(syscall.SIGKILL); b.startServer() }},
		{fmt.Sprintf("kill -9 of slackerd, away %v", serverAway), false, func() { b.kill(syscall.SIGKILL); time.Sleep(serverAway); b.startServer() }},
		{"stop of slackerd (SIGTERM) and start", false, func() { b.kill(syscall.SIGTERM); b.startServer() }},
		{"kill -9 of every fuse daemon", true, func() { b.endAgents(false, syscall.SIGKILL) }},
		{"SIGTERM to every fuse daemon", true, func() { b.endAgents(false, syscall.SIGTERM) }},
		{"kill -9 of every standby", true, func() { b.endAgents(true, syscall.SIGKILL) }},
		{"slacker-client restart --all", true, func() { b.run("slacker-client", "restart", "--all") }},
		{fmt.Sprintf("network cut for %v", networkAway), false, func() {
			b.ip("link", "set", b.link, "down")
			time.Sleep(networkAway)
			b.ip("link", "set", b.link, "up")
		}},
		{fmt.Sprintf("SIGSTOP of slackerd for %v", serverPaused), false, func() {
			_ = b.server.Process.Signal(syscall.SIGSTOP)
			time.Sleep(serverPaused)
			_ = b.server.Process.Signal(syscall.SIGCONT)
		}},
		{"kill -9 of slackerd and every fuse daemon", true, func() {
			b.kill(syscall.SIGKILL)
			agents, _ := b.agents()
			for _, pid := range agents {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			b.startServer()
		}},
	}
}

// table prints the pauses of all rounds.
func (b *bed) table() {
	for _, e := range b.events() {
		ps := slices.Sorted(slices.Values(b.pauses[e.name]))
		if len(ps) == 0 {
			continue
		}
		b.t.Logf("TABLE %-42s %2d times: median %8v, longest %8v", e.name, len(ps), ps[len(ps)/2].Round(time.Millisecond), ps[len(ps)-1].Round(time.Millisecond))
	}
}
