// Command sharing measures what a client that flushes and one that only writes take
// from each other, on volumes of their own of one slackerd, over a unix socket.
//
// The flusher writes a block and flushes, one after the other, as a database does.
// The writer keeps requests of one size in flight and never flushes. Each has its
// turn alone, then both at once. All volumes share the log, so a flush beside a
// writer also waits for what that has written since the last one: to tell that
// from waiting in vain, the flusher has one more turn alone, in which it writes
// itself, before each write and flush, as much as the writer did between two.
//
//	go run ./bench/sharing -slackerd bin/slackerd -rounds 3
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/bench/rounds"
	"github.com/slackerd/slacker/nbdclient"
)

const (
	blockBytes  = 4 << 10
	volumeBytes = 256 << 20
)

var (
	program = flag.String("slackerd", "bin/slackerd", "the server `program`")
	nRounds = flag.Int("rounds", 3, "rounds to take the median of")
	each    = flag.Duration("each", time.Second, "how long each turn takes")
	depth   = flag.Int("depth", 16, "requests that the writer keeps in flight")
)

func main() {
	flag.Parse()
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "sharing:", err)
		os.Exit(1)
	}
}

// client is one connection to a volume of its own.
type client struct {
	conn *nbdclient.Conn
	took []float64 // microseconds, of each operation
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "sharing")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	nbd, admin := filepath.Join(dir, "nbd"), filepath.Join(dir, "api")
	cmd := exec.Command(*program, "serve", "--data-dir", filepath.Join(dir, "data"), "--nbd-listen", "unix://"+nbd, "--api-listen", "unix://"+admin, "--log-level", "warn")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	if err := rounds.Await(ctx, admin); err != nil {
		return err
	}
	rpc, err := api.NewClient("unix://" + admin)
	if err != nil {
		return err
	}
	var clients [2]*client
	for i := range clients {
		name := strconv.Itoa(i)
		if _, err := rpc.CreateVolume(ctx, connect.NewRequest(&slackerv1.CreateVolumeRequest{Name: name, SizeBytes: volumeBytes})); err != nil {
			return err
		}
		conn, err := nbdclient.Dial(ctx, "unix://"+nbd, name, nbdclient.DefaultOptions())
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		clients[i] = &client{conn: conn}
		if err := clients[i].fill(ctx); err != nil {
			return err
		}
	}
	var figures []*rounds.Figure
	for _, bytes := range []int{4 << 10, 64 << 10} {
		row, err := share(ctx, clients[0], clients[1], bytes)
		if err != nil {
			return err
		}
		figures = append(figures, row...)
	}
	return rounds.Print("turn", figures,
		rounds.Of("per second", 0, func(f *rounds.Figure) []float64 { return f.Rate }),
		rounds.Of("p50 us", 0, func(f *rounds.Figure) []float64 { return f.P50 }),
		rounds.Of("p99 us", 0, func(f *rounds.Figure) []float64 { return f.P99 }))
}

// share puts both under load in turn and together, round by round.
func share(ctx context.Context, flusher, writer *client, bytes int) (figures []*rounds.Figure, err error) {
	between := 0 // requests of the writer between two flushes, in the turn before
	flushes := func(ctx context.Context) error { return flusher.flushes(ctx, 0, bytes) }
	writes := func(ctx context.Context) error { return writer.writes(ctx, bytes) }
	turns := []struct {
		name string
		load []func(context.Context) error
	}{
		{"write+flush alone", []func(context.Context) error{flushes}},
		{"writer alone", []func(context.Context) error{writes}},
		{"both", []func(context.Context) error{flushes, writes}},
		{"write+flush, and as many bytes itself", []func(context.Context) error{func(ctx context.Context) error { return flusher.flushes(ctx, between, bytes) }}},
	}
	byName := map[string]*rounds.Figure{}
	add := func(name string, c *client, took time.Duration) {
		f := byName[name]
		if f == nil {
			f = &rounds.Figure{Load: fmt.Sprintf("%dk writer, depth %d", bytes>>10, *depth), Name: name}
			byName[name] = f
			figures = append(figures, f)
		}
		f.Rate = append(f.Rate, float64(len(c.took))/took.Seconds())
		f.P50, f.P99 = append(f.P50, rounds.Quantile(c.took, 0.5)), append(f.P99, rounds.Quantile(c.took, 0.99))
	}
	for range *nRounds {
		for _, t := range turns {
			if err := writer.conn.Flush(ctx); err != nil { // of what the turn before has left
				return nil, err
			}
			flusher.took, writer.took = nil, nil
			began := time.Now()
			if err := together(ctx, t.load); err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
			took := time.Since(began)
			if len(t.load) == 1 {
				c := flusher
				if len(writer.took) > 0 {
					c = writer
				}
				add(t.name, c, took)
				continue
			}
			add(t.name+": write+flush", flusher, took)
			add(t.name+": writer", writer, took)
			between = len(writer.took) / max(1, len(flusher.took))
		}
	}
	return figures, nil
}

// together runs loads at once for a turn.
func together(ctx context.Context, loads []func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, *each)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, len(loads))
	for i, load := range loads {
		wg.Go(func() { errs[i] = load(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// noise is what is written: no block of it is zero.
func noise(bytes int) []byte {
	p := make([]byte, bytes)
	for i := range p {
		p[i] = byte(rand.Uint32()) | 1
	}
	return p
}

func somewhere(bytes int) uint64 { return rand.Uint64N(volumeBytes/uint64(bytes)) * uint64(bytes) }

func (c *client) fill(ctx context.Context) error {
	p := noise(1 << 20)
	for off := uint64(0); off < volumeBytes; off += uint64(len(p)) {
		if err := c.conn.WriteAt(ctx, p, off, false); err != nil {
			return err
		}
	}
	return c.conn.Flush(ctx)
}

// flushes writes a block and flushes until ctx ends; before each time it writes n
// requests, several at once.
func (c *client) flushes(ctx context.Context, n, bytes int) error {
	p, q := noise(blockBytes), noise(bytes)
	for ctx.Err() == nil {
		if err := c.each(n, func() error { return c.conn.WriteAt(context.Background(), q, somewhere(bytes), false) }); err != nil {
			return err
		}
		began := time.Now()
		err := c.conn.WriteAt(context.Background(), p, somewhere(blockBytes), false)
		if err == nil {
			err = c.conn.Flush(context.Background())
		}
		if err != nil {
			return err
		}
		c.took = append(c.took, float64(time.Since(began).Nanoseconds())/1e3)
	}
	return nil
}

// each does something n times, several at once.
func (c *client) each(n int, do func() error) error {
	var wg sync.WaitGroup
	errs := make([]error, min(n, *depth))
	for i := range errs {
		wg.Go(func() {
			for k := i; k < n && errs[i] == nil; k += len(errs) {
				errs[i] = do()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// writes keeps requests in flight until ctx ends.
func (c *client) writes(ctx context.Context, bytes int) error {
	p := noise(bytes)
	var mu sync.Mutex
	return c.each(*depth, func() error {
		for ctx.Err() == nil {
			began := time.Now()
			if err := c.conn.WriteAt(context.Background(), p, somewhere(bytes), false); err != nil {
				return err
			}
			took := float64(time.Since(began).Nanoseconds()) / 1e3
			mu.Lock()
			c.took = append(c.took, took)
			mu.Unlock()
		}
		return nil
	})
}
