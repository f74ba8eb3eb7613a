package soak

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const blockBytes = 4096

// prober writes numbered blocks past the cache, reads each back, syncs now and
// then, and notes the longest wait.
type prober struct {
	count, longest atomic.Int64
	began          atomic.Int64 // of what it is doing, unix nanoseconds
	quit           chan struct{}
	done           chan error
}

func startProber(t *testing.T, device string) *prober {
	t.Helper()
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	buf, err := unix.Mmap(-1, 0, 2*blockBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	p := &prober{quit: make(chan struct{}), done: make(chan error, 1)}
	go func() {
		err := p.probe(f, buf[:blockBytes], buf[blockBytes:])
		p.done <- errors.Join(err, f.Close(), unix.Munmap(buf))
	}()
	return p
}

func (p *prober) probe(f *os.File, out, in []byte) error {
	for n := uint64(0); ; n++ {
		select {
		case <-p.quit:
			return nil
		default:
		}
		at := int64(n*7919%16384) * blockBytes
		binary.LittleEndian.PutUint64(out, n)
		begun := time.Now()
		p.began.Store(begun.UnixNano())
		_, err := f.WriteAt(out, at)
		if err == nil && n%16 == 0 {
			err = f.Sync()
		}
		if err == nil {
			_, err = f.ReadAt(in, at)
		}
		if err == nil && !bytes.Equal(in, out) {
			err = fmt.Errorf("block %d reads back %d", n, binary.LittleEndian.Uint64(in))
		}
		if err != nil {
			return err
		}
		if took := int64(time.Since(begun)); took > p.longest.Load() {
			p.longest.Store(took)
		}
		p.count.Add(1)
	}
}

// reset returns the longest wait since the last reset.
func (p *prober) reset() time.Duration { return time.Duration(p.longest.Swap(0)) }

// progress waits until n more blocks went through.
func (p *prober) progress(t *testing.T, n int64) {
	t.Helper()
	goal := p.count.Load() + n
	for deadline := time.Now().Add(patience); p.count.Load() < goal; time.Sleep(time.Millisecond) {
		select {
		case err := <-p.done:
			t.Fatalf("the prober ended: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("no progress for %v", patience)
		}
	}
}

func (p *prober) stop(t *testing.T) {
	t.Helper()
	close(p.quit)
	if err := <-p.done; err != nil {
		t.Errorf("prober: %v", err)
	}
	t.Logf("prober: %d blocks", p.count.Load())
}

// fioRun is fio that verifies what it wrote.
type fioRun struct {
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan error
}

func startFio(t *testing.T, device string) *fioRun {
	t.Helper()
	f := &fioRun{done: make(chan error, 1)}
	f.cmd = exec.Command("fio", "--name=soak", "--filename="+device, "--rw=randwrite", "--bsrange=4k-64k", "--direct=1", "--ioengine=libaio",
		"--iodepth=8", "--verify=crc32c", "--verify_backlog=64", "--verify_fatal=1", "--fsync=32", "--size=192M", "--time_based", "--runtime=86400")
	f.cmd.Dir = t.TempDir() // it leaves a state file
	f.cmd.Stdout, f.cmd.Stderr = &f.out, &f.out
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { f.done <- f.cmd.Wait() }()
	t.Cleanup(func() { _ = f.cmd.Process.Kill() })
	return f
}

func (f *fioRun) alive(t *testing.T) {
	t.Helper()
	select {
	case err := <-f.done:
		t.Fatalf("fio ended: %v\n%s", err, f.out.String())
	default:
	}
}

func (f *fioRun) stop(t *testing.T) {
	t.Helper()
	f.alive(t)
	_ = f.cmd.Process.Signal(syscall.SIGINT)
	err := <-f.done
	text := f.out.String()
	// fio ends with status 128 after a signal; its errors are in the text.
	if !strings.Contains(text, "err= 0") || strings.Contains(text, "verify:") {
		t.Errorf("fio: %v\n%s", err, text)
	}
	for line := range strings.Lines(text) {
		if strings.Contains(line, "IOPS=") {
			t.Log("fio:", strings.TrimSpace(line))
		}
	}
}

// databases are a redis that syncs every command, and sqlite, each with a
// client that counts what was acknowledged.
type databases struct {
	dir           string
	redis, client *exec.Cmd
	sqlite        *exec.Cmd
	incremented   atomic.Int64
	inserted      atomic.Int64
	reading       [2]chan struct{}
}

const insert = `
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("pragma journal_mode=delete"); db.execute("pragma synchronous=full")
db.execute("create table if not exists t (n integer primary key, x text)")
n = 0
while True:
    n += 1
    db.execute("insert into t values (?, ?)", (n, str(n) * 100))
    print(n, flush=True)
`

func startDatabases(t *testing.T, dir string) *databases {
	t.Helper()
	d := &databases{dir: dir}
	d.startRedis(t)
	d.client = exec.Command("redis-cli", "-s", d.socket(), "-r", "-1", "incr", "n")
	d.sqlite = exec.Command("python3", "-c", insert, filepath.Join(dir, "db"))
	d.reading[0] = count(t, d.client, &d.incremented)
	d.reading[1] = count(t, d.sqlite, &d.inserted)
	return d
}

func (d *databases) socket() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("soak-redis-%d", os.Getpid()))
}

func (d *databases) startRedis(t *testing.T) {
	t.Helper()
	// Debian's redis-tools has the server, under another name.
	d.redis = exec.Command("redis-check-rdb", "--port", "0", "--unixsocket", d.socket(), "--dir", d.dir, "--appendonly", "yes",
		"--appendfsync", "always", "--save", "", "--stop-writes-on-bgsave-error", "no")
	d.redis.Args[0] = "redis-server"
	if err := d.redis.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.redis.Process.Kill() })
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		// While it reads what it has written it answers too, with LOADING.
		out, err := exec.Command("redis-cli", "-s", d.socket(), "ping").Output()
		if err == nil && strings.TrimSpace(string(out)) == "PONG" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("redis does not answer: %q: %v", out, err)
		}
	}
}

// count starts a command and keeps the last number that it printed.
func count(t *testing.T, cmd *exec.Cmd, last *atomic.Int64) chan struct{} {
	t.Helper()
	out, err := cmd.StdoutPipe()
	cmd.Stderr = os.Stderr
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			n, err := strconv.ParseInt(strings.TrimPrefix(lines.Text(), "(integer) "), 10, 64)
			if err != nil {
				t.Errorf("%s says %q", cmd.Path, lines.Text())
				continue
			}
			last.Store(n)
		}
	}()
	return done
}

// progress waits until both have something more acknowledged.
func (d *databases) progress(t *testing.T) {
	t.Helper()
	for name, n := range map[string]*atomic.Int64{"redis": &d.incremented, "sqlite": &d.inserted} {
		begun := n.Load()
		for deadline := time.Now().Add(patience); n.Load() == begun; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s acknowledged nothing for %v after %d", name, patience, begun)
			}
		}
	}
}

// stop kills both, reads them anew from disk and compares.
func (d *databases) stop(t *testing.T) {
	t.Helper()
	for i, cmd := range []*exec.Cmd{d.client, d.sqlite} {
		_ = cmd.Process.Kill()
		<-d.reading[i]
		_ = cmd.Wait()
	}
	_ = d.redis.Process.Kill()
	_ = d.redis.Wait()
	if out, err := exec.Command("sh", "-c", "echo 3 > /proc/sys/vm/drop_caches").CombinedOutput(); err != nil {
		t.Logf("drop caches: %v %s", err, out)
	}
	d.startRedis(t)
	out, err := exec.Command("redis-cli", "-s", d.socket(), "get", "n").Output()
	n, perr := strconv.ParseInt(strings.Trim(strings.TrimSpace(string(out)), `"`), 10, 64)
	// One more may have been done than was told.
	if want := d.incremented.Load(); err != nil || perr != nil || n < want || n > want+1 || want == 0 {
		t.Errorf("redis has %s, acknowledged was %d: %v", out, want, err)
	}
	_ = d.redis.Process.Kill()
	_ = d.redis.Wait()
	out, err = exec.Command("python3", "-c", `
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
print(db.execute("select count(*) from t").fetchone()[0], db.execute("pragma integrity_check").fetchone()[0])
`, filepath.Join(d.dir, "db")).CombinedOutput()
	var rows int64
	var state string
	_, perr = fmt.Sscan(string(out), &rows, &state)
	if want := d.inserted.Load(); err != nil || perr != nil || state != "ok" || rows < want || rows > want+1 || want == 0 {
		t.Errorf("sqlite says %s, acknowledged were %d rows: %v", out, want, err)
	}
	t.Logf("redis: %d increments, sqlite: %d rows acknowledged and there", n, rows)
}
