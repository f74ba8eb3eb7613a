package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// client is a loop that counts what was acknowledged, until it fails or stops.
type client struct {
	acked   atomic.Int64
	stopped atomic.Bool
	end     chan error
	err     error
}

// loop runs step with growing numbers.
func (c *client) loop(step func(n int64) error) {
	c.end = make(chan error, 1)
	go func() {
		for n := int64(1); !c.stopped.Load(); n++ {
			if err := step(n); err != nil {
				c.end <- fmt.Errorf("number %d: %w", n, err)
				return
			}
			c.acked.Store(n)
		}
		c.end <- nil
	}()
}

func (c *client) failed() error {
	select {
	case c.err = <-c.end:
		c.end <- c.err
	default:
	}
	return c.err
}

func (c *client) stop() error {
	c.stopped.Store(true)
	return <-c.end
}

// redis is a server that syncs every command, and a client that counts.
type redis struct {
	client
	dir    string
	server *exec.Cmd
}

const redisSocket = "/tmp/redis.sock"

func startRedis(dir string) (*redis, error) {
	r := &redis{dir: dir}
	conn, err := r.serve()
	if err != nil {
		return nil, err
	}
	in := bufio.NewReader(conn)
	r.loop(func(n int64) error {
		got, err := ask(conn, in, "INCR n")
		if err == nil && got != ":"+strconv.FormatInt(n, 10) {
			err = fmt.Errorf("redis says %q", got)
		}
		return err
	})
	return r, nil
}

// serve starts the server and waits until it answers.
func (r *redis) serve() (net.Conn, error) {
	r.server = exec.Command("redis-server", "--port", "0", "--unixsocket", redisSocket, "--dir", r.dir, "--appendonly", "yes",
		"--appendfsync", "always", "--save", "", "--stop-writes-on-bgsave-error", "no")
	if err := r.server.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(*patience); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("unix", redisSocket)
		if err == nil {
			in := bufio.NewReader(conn)
			var got string
			if got, err = ask(conn, in, "PING"); err == nil && got == "+PONG" {
				return conn, nil
			}
			_ = conn.Close()
			err = errors.Join(err, fmt.Errorf("redis says %q", got))
		}
		if time.Now().After(deadline) {
			return nil, err
		}
	}
}

func ask(w io.Writer, in *bufio.Reader, command string) (string, error) {
	if _, err := fmt.Fprintf(w, "%s\r\n", command); err != nil {
		return "", err
	}
	line, err := in.ReadString('\n')
	return strings.TrimSpace(line), err
}

// finish kills the server, drops what is in memory and reads it anew.
func (r *redis) finish() (string, error) {
	if err := r.stop(); err != nil {
		return "", fmt.Errorf("redis: %w", err)
	}
	kill := func() {
		_ = r.server.Process.Kill()
		_ = r.server.Wait()
		_ = os.Remove(redisSocket)
	}
	kill()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return "", err
	}
	conn, err := r.serve()
	if err != nil {
		return "", err
	}
	defer kill()
	in := bufio.NewReader(conn)
	length, err := ask(conn, in, "GET n")
	if err != nil {
		return "", err
	}
	text, err := in.ReadString('\n')
	got, perr := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if want := r.acked.Load(); err != nil || perr != nil || got != want || want == 0 {
		return "", fmt.Errorf("redis has %s %q, acknowledged was %d: %w", length, text, want, errors.Join(err, perr))
	}
	return fmt.Sprintf("redis %d increments", got), nil
}

// sqlite is its shell, which is given one insertion after the other.
type sqlite struct {
	client
	path string
	cmd  *exec.Cmd
	in   io.WriteCloser
}

func startSQLite(path string) (*sqlite, error) {
	s := &sqlite{path: path, cmd: exec.Command("sqlite3", "-batch", "-bail", path)}
	s.cmd.Stderr = os.Stdout
	in, err := s.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	s.in = in
	out, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err == nil {
		_, err = fmt.Fprintln(in, "pragma synchronous=full; create table t (n integer primary key, x text);")
	}
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(out)
	s.loop(func(n int64) error {
		if _, err := fmt.Fprintf(in, "insert into t values (%d, hex(zeroblob(100))); select %d;\n", n, n); err != nil {
			return err
		}
		if !lines.Scan() || lines.Text() != strconv.FormatInt(n, 10) {
			return fmt.Errorf("sqlite says %q: %w", lines.Text(), lines.Err())
		}
		return nil
	})
	return s, nil
}

func (s *sqlite) finish() (string, error) {
	if err := s.stop(); err != nil {
		return "", fmt.Errorf("sqlite: %w", err)
	}
	_ = s.in.Close()
	_ = s.cmd.Wait()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return "", err
	}
	text, err := run("sqlite3", "-batch", s.path, "select count(*) from t; pragma integrity_check;")
	if want := fmt.Sprintf("%d\nok", s.acked.Load()); err != nil || text != want || s.acked.Load() == 0 {
		return "", fmt.Errorf("sqlite says %q, want %q: %w", text, want, err)
	}
	return fmt.Sprintf("sqlite %d rows", s.acked.Load()), nil
}
