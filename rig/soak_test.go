package rig

import (
	"bufio"
	"flag"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	soakRounds  = flag.Int("rig.rounds", 1, "how often each event of the soak happens")
	soakAll     = flag.Bool("rig.all", false, "all events of the soak, and over TLS too; otherwise the short ones")
	soakTimeout = flag.Duration("rig.timeout", 5*time.Second, "request timeout of the soak's attachments")
)

// event is something that ends or stops, and what it must not cost.
type event struct {
	name string
	long bool // only with -rig.all
	do   func()
}

// TestSoak makes servers, networks and the worker's processes fail under fio with
// verify, redis that syncs every command, sqlite, and synced writes, all on the
// kernel's NBD client: no I/O error, and what was acknowledged is there (C1, C7).
func TestSoak(t *testing.T) { soak(t, nil) }

// TestSoakOverTLS is TestSoak through the relay of the worker's monitor.
func TestSoakOverTLS(t *testing.T) {
	if !*soakAll {
		t.Skip("the long soak only: make rig-soak")
	}
	soak(t, newPKI(t))
}

func soak(t *testing.T, p *pki) {
	h := newTLSHost(t, p)
	h.create("f")
	var files []string
	for program, as := range map[string]string{"fio": "fio", "sqlite3": "sqlite3", "redis-check-rdb": "redis-server"} {
		path, err := exec.LookPath(program)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, path+":/usr/bin/"+as) // Debian's redis-tools has the server, under another name
	}
	files = append(files, filepath.Join(bin, "load")+":/usr/bin/load")
	files = append(files, p.guestFiles()...)
	g := bootWith(t, files, "soak", strconv.Itoa(h.api), soakTimeout.String())
	g.await("RIG-LOADED", bootLimit)
	pauses := map[string][]time.Duration{}
	events := soakEvents(h, g)
	g.progress(20)
	for round := range *soakRounds {
		for _, e := range events {
			if e.long && !*soakAll {
				continue
			}
			g.ask("probe")
			begun := time.Now()
			e.do()
			done := time.Since(begun)
			longest := g.progress(10)
			pauses[e.name] = append(pauses[e.name], longest)
			t.Logf("round %d: %-52s %8v, longest wait %8v", round+1, e.name, done.Round(time.Millisecond), longest)
		}
	}
	t.Log(g.ask("finish"))
	g.pass()
	for _, e := range events {
		if ps := pauses[e.name]; len(ps) > 0 {
			slices.Sort(ps)
			t.Logf("TABLE %-52s %d times: median %8v, longest %8v", e.name, len(ps), ps[len(ps)/2], ps[len(ps)-1])
		}
	}
}

// Outages of the soak. The pause of the server is longer than a request may take.
const (
	away       = 2 * time.Second
	cut        = 3 * time.Second
	stopExcess = 3 * time.Second
)

func soakEvents(h *host, g *guest) []event {
	restart := func(away time.Duration) func() {
		return func() {
			h.kill()
			time.Sleep(away) // the outage
			h.start()
		}
	}
	guest := func(commands ...string) func() {
		return func() {
			for _, c := range commands {
				g.ask(c)
			}
		}
	}
	return []event{
		{"nothing", false, func() {}},
		{"upgrade of slackerd (SIGUSR2)", false, func() {
			before := strings.Count(h.text(), `"upgraded"`)
			h.signal(syscall.SIGUSR2)
			h.await(func() bool { return strings.Count(h.text(), `"upgraded"`) > before }, "upgrade", hostLimit)
		}},
		{"kill -9 of slackerd, started at once", false, restart(0)},
		{"kill -9 of slackerd, away for 2s", true, restart(away)},
		{"SIGTERM of slackerd, started at once", true, func() {
			h.signal(syscall.SIGTERM)
			_ = h.cmd.Wait()
			h.start()
		}},
		{"kill -9 of every monitor", false, guest("kill monitor")},
		{"kill -9 of every standby", true, guest("kill standby")},
		{"slacker-client restart --all", true, guest("sh slacker-client restart --all")},
		{"kill -9 of every monitor and standby, then list", true, guest("kill monitor standby", "sh slacker-client list")},
		// The sockets die while no monitor is there to hear of it.
		{"kill -9 of slackerd and of every monitor", false, func() {
			g.ask("kill monitor")
			restart(0)()
		}},
		{"network cut for 3s", false, func() {
			g.qemu("set_link n0 off")
			time.Sleep(cut) // the outage
			g.qemu("set_link n0 on")
		}},
		{"SIGSTOP of slackerd beyond the request timeout", true, func() {
			h.signal(syscall.SIGSTOP)
			time.Sleep(*soakTimeout + stopExcess) // the outage
			h.signal(syscall.SIGCONT)
		}},
	}
}

func (h *host) signal(s syscall.Signal) {
	h.t.Helper()
	if err := h.cmd.Process.Signal(s); err != nil {
		h.t.Fatal(err)
	}
}

// ask has the guest do something, and returns its answer.
func (g *guest) ask(what string) string {
	g.t.Helper()
	c, err := net.DialTimeout("tcp", g.control, hostLimit)
	if err != nil {
		g.t.Fatalf("ask the guest %q: %v", what, err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(guestLimit))
	if _, err := fmt.Fprintln(c, what); err != nil {
		g.t.Fatalf("ask the guest %q: %v", what, err)
	}
	lines := bufio.NewScanner(c)
	lines.Buffer(nil, 1<<20)
	lines.Scan()
	answer, ok := strings.CutPrefix(lines.Text(), "ok ")
	if !ok {
		g.t.Fatalf("asked %q, the guest answers %q (error %v); its console:\n%s", what, lines.Text(), lines.Err(), g.text())
	}
	return answer
}

// progress waits until each load has done something more, the prober n writes, and
// returns the prober's longest wait since it was asked before.
func (g *guest) progress(n int64) time.Duration {
	g.t.Helper()
	var longest int64
	var first []int64
	for deadline := time.Now().Add(guestLimit); ; time.Sleep(100 * time.Millisecond) {
		var now [4]int64 // writes, longest wait, increments, rows
		text := g.ask("probe")
		if _, err := fmt.Sscan(text, &now[0], &now[1], &now[2], &now[3]); err != nil {
			g.t.Fatalf("the guest says %q: %v", text, err)
		}
		if first == nil {
			first = now[:]
		}
		longest = max(longest, now[1])
		if now[0] >= first[0]+n && now[2] > first[2] && now[3] > first[3] {
			return time.Duration(longest) * time.Millisecond
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("no progress for %v: the guest says %q, its console:\n%s", guestLimit, text, g.text())
		}
	}
}

// qemu gives QEMU's monitor a command.
func (g *guest) qemu(command string) {
	g.t.Helper()
	c, err := net.Dial("unix", g.monitor)
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(hostLimit))
	if _, err := fmt.Fprintln(c, command); err != nil {
		g.t.Fatal(err)
	}
	// It answers with a prompt before and after.
	in, prompts := bufio.NewReader(c), 0
	for prompts < 2 {
		if _, err := in.ReadString(')'); err != nil {
			g.t.Fatalf("QEMU's monitor after %q: %v", command, err)
		}
		prompts++
	}
}
