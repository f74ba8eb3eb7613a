// Command upgrades measures for how long clients wait while slackerd is replaced
// by SIGUSR2, and where that time goes.
//
// It starts a server on a directory of its own, with volumes of a given number of
// blocks in the map, and lets clients write, read and flush over connections that
// cannot connect again. Then it upgrades the server again and again. A client's
// pause is the longest time that one of its operations took from the signal to the
// first answer of the new program. An operation that fails ends the run.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/nbdclient"
)

const (
	blockBytes  = 4096
	volumeBytes = 1 << 30
	patience    = 60 * time.Second
)

var (
	program  = flag.String("slackerd", "bin/slackerd", "the server")
	dir      = flag.String("dir", "", "directory for the store; default a temporary one")
	rounds   = flag.Int("rounds", 10, "upgrades")
	clients  = flag.Int("clients", 8, "connections under load, each of a volume of its own")
	fill     = flag.Int("fill", 20000, "blocks written at random to each volume beforehand")
	rest     = flag.Duration("rest", 300*time.Millisecond, "load between two upgrades")
	flushing = flag.Int("flush-every", 16, "operations between two flushes of a client")
	verbose  = flag.Bool("v", false, "print the server's log")
)

func main() {
	flag.Parse()
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "upgrades:", err)
		os.Exit(1)
	}
}

// server is a running slackerd.
type server struct {
	cmd      *exec.Cmd
	serving  chan line
	upgraded chan line
}

// line is what is used of a line of the server's log.
type line struct {
	Msg   string   `json:"msg"`
	NBD   []string `json:"nbd"`
	API   []string `json:"api"`
	PID   int      `json:"pid"`
	Pause string   `json:"pause"`
	Steps string   `json:"steps"`
	Conns int      `json:"connections"`
}

func start(ctx context.Context, data string) (*server, line, error) {
	s := &server{serving: make(chan line, 100), upgraded: make(chan line, 100)}
	s.cmd = exec.CommandContext(ctx, *program, "serve", "--data-dir", data, "--nbd-listen", "tcp://127.0.0.1:0", "--api-listen", "tcp://127.0.0.1:0")
	stderr, err := s.cmd.StderrPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		return nil, line{}, err
	}
	go s.read(stderr)
	l, err := next(s.serving)
	return s, l, err
}

func (s *server) read(stderr io.Reader) {
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if *verbose {
			fmt.Println(lines.Text())
		}
		var l line
		if json.Unmarshal(lines.Bytes(), &l) != nil {
			continue
		}
		switch l.Msg {
		case "serving":
			s.serving <- l
		case "upgraded":
			s.upgraded <- l
		}
	}
	close(s.serving)
	close(s.upgraded)
}

func next(c <-chan line) (line, error) {
	select {
	case l, ok := <-c:
		if !ok {
			return l, errors.New("the server ended")
		}
		return l, nil
	case <-time.After(patience):
		return line{}, fmt.Errorf("the server says nothing for %v", patience)
	}
}

func run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if *dir == "" {
		tmp, err := os.MkdirTemp("", "upgrades")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(tmp) }()
		*dir = tmp
	}
	s, at, err := start(ctx, filepath.Join(*dir, "data"))
	if err != nil {
		return err
	}
	defer func() { _ = s.cmd.Process.Signal(syscall.SIGTERM); _ = s.cmd.Wait() }()
	var cs []*client
	for i := range *clients {
		c, err := newClient(ctx, at, fmt.Sprintf("v%d", i))
		if err != nil {
			return err
		}
		cs = append(cs, c)
	}
	var wg sync.WaitGroup
	var stop atomic.Bool
	failed := make(chan error, len(cs))
	for _, c := range cs {
		wg.Go(func() {
			if err := c.work(ctx, &stop); err != nil {
				failed <- err
			}
		})
	}
	err = upgrades(s, cs, failed)
	stop.Store(true)
	wg.Wait()
	return err
}

func upgrades(s *server, cs []*client, failed <-chan error) error {
	var all []time.Duration
	for n := range *rounds {
		select {
		case err := <-failed:
			return err
		case <-time.After(*rest): // the load goes on
		}
		for _, c := range cs {
			c.longest.Store(0)
		}
		if err := s.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
			return err
		}
		l, err := next(s.upgraded)
		if err != nil {
			return err
		}
		var pauses []time.Duration
		for _, c := range cs {
			pauses = append(pauses, c.afterNext())
		}
		slices.Sort(pauses)
		all = append(all, pauses...)
		fmt.Printf("upgrade %d: clients waited %v to %v; %d connections kept; server says %s: %s\n", n+1,
			pauses[0].Round(time.Millisecond/10), pauses[len(pauses)-1].Round(time.Millisecond/10), l.Conns, l.Pause, l.Steps)
	}
	slices.Sort(all)
	fmt.Printf("pause of a client over %d upgrades, %d clients: median %v, longest %v\n", *rounds, len(cs),
		all[len(all)/2].Round(time.Millisecond/10), all[len(all)-1].Round(time.Millisecond/10))
	return nil
}

// client is a connection under load.
type client struct {
	conn    *nbdclient.Conn
	longest atomic.Int64
	ops     atomic.Int64
}

func newClient(ctx context.Context, at line, name string) (*client, error) {
	admin, err := api.NewClient(at.API[0])
	if err != nil {
		return nil, err
	}
	if _, err := admin.CreateVolume(ctx, connect.NewRequest(&slackerv1.CreateVolumeRequest{Name: name, SizeBytes: volumeBytes})); err != nil {
		return nil, err
	}
	conn, err := nbdclient.Dial(ctx, at.NBD[0], name, nbdclient.DefaultOptions())
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn}
	for range *fill {
		if err := conn.WriteAt(ctx, bytes.Repeat([]byte{byte(rand.Int())}, blockBytes), anywhere(), false); err != nil {
			return nil, err
		}
	}
	return c, conn.Flush(ctx)
}

func anywhere() uint64 { return uint64(rand.IntN(volumeBytes/blockBytes)) * blockBytes }

// work writes and reads what it wrote, with a flush now and then, until stop.
func (c *client) work(ctx context.Context, stop *atomic.Bool) error {
	want, got := make([]byte, blockBytes), make([]byte, blockBytes)
	for i := 1; !stop.Load(); i++ {
		for j := range want {
			want[j] = byte(i + j)
		}
		at := anywhere()
		began := time.Now()
		err := c.conn.WriteAt(ctx, want, at, false)
		c.note(began)
		if err == nil && i%*flushing == 0 {
			began = time.Now()
			err = c.conn.Flush(ctx)
			c.note(began)
		}
		if err == nil {
			began = time.Now()
			err = c.conn.ReadAt(ctx, got, at)
			c.note(began)
		}
		if err == nil && !bytes.Equal(got, want) {
			err = fmt.Errorf("block at %d is not what was written", at)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *client) note(began time.Time) {
	took := int64(time.Since(began))
	for {
		l := c.longest.Load()
		if took <= l || c.longest.CompareAndSwap(l, took) {
			break
		}
	}
	c.ops.Add(1)
}

// afterNext returns the longest wait so far, once another operation has ended.
func (c *client) afterNext() time.Duration {
	for n := c.ops.Load(); c.ops.Load() < n+2; {
		time.Sleep(time.Millisecond)
	}
	return time.Duration(c.longest.Load())
}
