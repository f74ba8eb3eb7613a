// Command load runs in the guest of the rig: it attaches volumes with the kernel's
// NBD client, puts fio, a redis that syncs every command, sqlite and a prober on
// them, and does what the host asks over TCP, one line each:
//
//	probe        how many writes the prober has synced, and the longest wait since
//	             the last question, in milliseconds
//	kill ROLES   kill -9 the processes of all attachments with such a role (monitor,
//	             standby), once all have both, and answer with how many
//	sh COMMAND   run it, and answer with its output in one line
//	finish       end the loads and compare what was acknowledged with what is there
//
// An answer is one line that begins with "ok " or "fail ".
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

var (
	listen   = flag.String("listen", ":5555", "where the host asks")
	timeout  = flag.String("request-timeout", "5s", "of the attachments")
	patience = flag.Duration("patience", 2*time.Minute, "how long anything may take")
)

const mount = "/mnt/v"

func main() {
	flag.Parse()
	if err := serve(); err != nil {
		fmt.Println("FAIL", err)
		os.Exit(1)
	}
}

// loads is everything that works on the volumes.
type loads struct {
	probe  *prober
	redis  *redis
	sqlite *sqlite
	fio    *exec.Cmd
	fioOut strings.Builder
	fioEnd chan error
}

func serve() error {
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	work, err := start()
	if err != nil {
		return err
	}
	fmt.Println("RIG-LOADED")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		finished, err := work.talk(c)
		_ = c.Close()
		if finished {
			return err
		}
	}
}

// start attaches the volumes and sets everything to work.
func start() (*loads, error) {
	disk, err := run("slacker-client", "attach", "--driver", "nbd", "--request-timeout", *timeout, "f")
	if err == nil {
		_, err = run("slacker-client", "attach", "--driver", "nbd", "--request-timeout", *timeout, "--mkfs", "--mount", mount, "v")
	}
	if err != nil {
		return nil, err
	}
	w := &loads{fioEnd: make(chan error, 1)}
	if w.probe, err = startProber(mount + "/probe"); err != nil {
		return nil, err
	}
	if w.redis, err = startRedis(mount); err != nil {
		return nil, err
	}
	if w.sqlite, err = startSQLite(mount + "/db"); err != nil {
		return nil, err
	}
	w.fio = exec.Command("fio", "--name=rig", "--filename="+disk, "--rw=randwrite", "--bsrange=4k-64k", "--direct=1", "--ioengine=libaio",
		"--iodepth=4", "--verify=crc32c", "--verify_backlog=32", "--verify_fatal=1", "--fsync=32", "--size=32M", "--time_based",
		"--runtime=86400", "--thinktime=20ms", "--aux-path=/tmp")
	w.fio.Dir = "/tmp" // it leaves a state file
	w.fio.Stdout, w.fio.Stderr = &w.fioOut, &w.fioOut
	if err := w.fio.Start(); err != nil {
		return nil, err
	}
	go func() { w.fioEnd <- w.fio.Wait() }()
	return w, nil
}

// talk answers one connection. The loads are over once finished is true.
func (w *loads) talk(c net.Conn) (finished bool, err error) {
	for lines := bufio.NewScanner(c); lines.Scan(); {
		verb, rest, _ := strings.Cut(lines.Text(), " ")
		var text string
		switch verb {
		case "probe":
			text, err = w.alive()
		case "kill":
			text, err = killAgents(strings.Fields(rest))
		case "sh":
			text, err = run("sh", "-c", rest)
		case "finish":
			text, err = w.finish()
			finished = true
		default:
			err = fmt.Errorf("%q is not understood", verb)
		}
		answer := "ok " + text
		if err != nil {
			answer = "fail " + err.Error() + " " + text
		}
		if _, werr := fmt.Fprintln(c, strings.ReplaceAll(answer, "\n", " | ")); werr != nil || finished {
			return finished, err
		}
	}
	return finished, err
}

// alive tells how the prober does, if nothing has ended.
func (w *loads) alive() (string, error) {
	select {
	case err := <-w.fioEnd:
		return "", fmt.Errorf("fio ended: %w: %s", err, w.fioOut.String())
	default:
	}
	if err := errors.Join(w.probe.failed(), w.redis.failed(), w.sqlite.failed()); err != nil {
		return "", err
	}
	count, longest := w.probe.report()
	return fmt.Sprintf("%d %d %d %d", count, longest.Milliseconds(), w.redis.acked.Load(), w.sqlite.acked.Load()), nil
}

// finish ends the loads and looks at what they left.
func (w *loads) finish() (string, error) {
	if _, err := w.alive(); err != nil {
		return "", err
	}
	_ = w.fio.Process.Signal(os.Interrupt)
	fioErr := <-w.fioEnd
	// fio ends with status 128 after a signal; its errors are in the text.
	if text := w.fioOut.String(); !strings.Contains(text, "err= 0") || strings.Contains(text, "verify:") {
		return "", fmt.Errorf("fio: %w: %s", fioErr, text)
	}
	if err := w.probe.stop(); err != nil {
		return "", fmt.Errorf("prober: %w", err)
	}
	sqlite, err := w.sqlite.finish()
	if err != nil {
		return "", err
	}
	redis, err := w.redis.finish()
	return fmt.Sprintf("prober %d synced writes, %s, %s", w.probe.count.Load(), redis, sqlite), err
}

// run runs a program and returns what it printed, in one piece.
func run(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, text)
	}
	return text, nil
}

// killAgents kills the agents of all attachments at once, their standbys, or both,
// once all have both.
func killAgents(roles []string) (string, error) {
	pids, err := agents()
	for deadline := time.Now().Add(*patience); err != nil; pids, err = agents() {
		if time.Now().After(deadline) {
			return "", err
		}
		time.Sleep(20 * time.Millisecond)
	}
	var ends []int
	for _, pair := range pids {
		for i, role := range []string{"monitor", "standby"} {
			if slices.Contains(roles, role) {
				ends = append(ends, pair[i])
			}
		}
	}
	for _, s := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} { // none starts another meanwhile
		for _, pid := range ends {
			err = errors.Join(err, syscall.Kill(pid, s))
		}
	}
	return fmt.Sprint(len(ends)), err
}

// agents returns the processes of each attachment: its agent and the standby.
func agents() (pids [][2]int, err error) {
	names, err := filepath.Glob("/run/slacker/*.agent")
	if err != nil || len(names) == 0 {
		return nil, fmt.Errorf("no agents: %w", err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var pair [2]int
		if n, err := fmt.Sscan(string(b), &pair[0], &pair[1]); n != 2 || pair[1] == 0 {
			return nil, fmt.Errorf("an attachment has the processes %q, want an agent and a standby: %w", b, err)
		}
		for _, pid := range pair {
			if err := syscall.Kill(pid, 0); err != nil {
				return nil, fmt.Errorf("process %d: %w", pid, err)
			}
		}
		pids = append(pids, pair)
	}
	return pids, nil
}
