// Command attach times clone, attach and mount of a warm ext4 volume, by step.
//
// A slackerd is started on memory, with a snapshot that holds an ext4 file
// system. Each round makes a clone of it and attaches and mounts that, once from
// within a process that goes on running, as containerd's snapshotter does it, and
// once by the command slacker-client, whose own start is then in it; and
// detaches again. Before them come some rounds that do not count.
//
//	go run ./bench/attach -bin bin -rounds 100
//
// It needs root, and mkfs.ext4.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/bench/rounds"
	"github.com/slackerd/slacker/worker"
)

type options struct {
	bin, dir, json, driver string
	rounds, connections    int
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "`directory` with the programs")
	flag.StringVar(&o.dir, "dir", "/dev/shm", "`directory` for the store and the state, below which one is made")
	flag.StringVar(&o.json, "json", "", "also write the figures to this `file`")
	flag.StringVar(&o.driver, "driver", "fuse", "fuse or nbd")
	flag.IntVar(&o.rounds, "rounds", 100, "rounds that count")
	flag.IntVar(&o.connections, "connections", 0, "connections of a device; 0: what the driver takes by default")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "attach:", err)
		os.Exit(1)
	}
}

const (
	base      = "base"
	snapshot  = base + "@v1"
	baseSize  = "1GiB"
	unmarked  = 5 // rounds that do not count
	throughUs = "process that runs"
	throughIt = "slacker-client"
)

// bed is what a run works with.
type bed struct {
	options
	address string
	worker  *worker.Worker
	steps   *steps // that the worker tells
}

func run(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("want root, to make block devices")
	}
	for _, path := range []*string{&o.bin, &o.json} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if o.dir, err = os.MkdirTemp(o.dir, "attach"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	b := &bed{options: o, address: "unix://" + filepath.Join(o.dir, "api.sock"), steps: newSteps()}
	server := exec.Command(filepath.Join(o.bin, "slackerd"), "serve", "--data-dir", filepath.Join(o.dir, "store"),
		"--nbd-listen", "unix://"+filepath.Join(o.dir, "nbd.sock"), "--api-listen", b.address, "--log-level", "warn")
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		return err
	}
	defer func() {
		_ = server.Process.Signal(unix.SIGTERM) // it may have ended
		_ = server.Wait()
	}()
	if err := rounds.Await(ctx, filepath.Join(o.dir, "api.sock")); err != nil {
		return err
	}
	if err := b.setUp(); err != nil {
		return err
	}
	for i := range unmarked + o.rounds {
		if i == unmarked {
			b.steps.reset()
		}
		fmt.Fprintf(os.Stderr, "\rround %d/%d ", i-unmarked+1, o.rounds)
		if err := errors.Join(ctx.Err(), b.round(ctx, fmt.Sprintf("clone%d", i))); err != nil {
			return err
		}
	}
	fmt.Fprint(os.Stderr, "\r                  \r")
	return b.report()
}

// setUp makes the snapshot, and a worker of this process.
func (b *bed) setUp() error {
	mount := filepath.Join(b.dir, "mount")
	for _, args := range [][]string{
		{"slackerctl", "volume", "create", base, "--size", baseSize},
		{"slacker-client", "attach", base, "--driver", b.driver, "--mkfs", "--mount", mount},
		{"cp", "-r", "/usr/lib/os-release", "/etc/default", mount},
		{"slacker-client", "detach", base},
		{"slackerctl", "snapshot", "create", snapshot},
	} {
		if _, err := b.command(args...); err != nil {
			return err
		}
	}
	c, err := worker.DefaultConfig()
	if err != nil {
		return err
	}
	if c.API, err = api.NewClient(b.address); err != nil {
		return err
	}
	c.Server, c.StateDir, c.Executable = b.address, filepath.Join(b.dir, "state-of-process"), filepath.Join(b.bin, "slacker-client")
	c.Verbose = b.steps.add
	b.worker, err = worker.New(c)
	return err
}

// command runs a program, one of ours with the server's address, and gives its
// standard error.
func (b *bed) command(args ...string) (string, error) {
	name := args[0]
	if strings.HasPrefix(name, "slacker") {
		name = filepath.Join(b.bin, name)
		args = append(args, "--server", b.address)
		if args[0] == "slacker-client" {
			args = append(args, "--state-dir", filepath.Join(b.dir, "state"))
		}
	}
	cmd := exec.Command(name, args[1:]...)
	var text strings.Builder
	cmd.Stderr = &text
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, text.String())
	}
	return text.String(), nil
}

// round attaches and detaches both ways.
func (b *bed) round(ctx context.Context, name string) error {
	mount := filepath.Join(b.dir, "mount")
	b.steps.through = throughUs
	begun := time.Now()
	if _, err := b.worker.Attach(ctx, name, worker.AttachOptions{Driver: b.driver, Clone: snapshot, MountDir: mount, Connections: b.connections}); err != nil {
		return err
	}
	b.steps.add(whole, time.Since(begun))
	begun = time.Now()
	b.steps.silent = true
	_, err := b.worker.Detach(ctx, name, false)
	b.steps.silent = false
	if err != nil {
		return err
	}
	b.steps.add(detach, time.Since(begun))

	b.steps.through = throughIt
	name += "c"
	begun = time.Now()
	if _, err := b.command("slacker-client", "attach", name, "--driver", b.driver, "--clone", snapshot, "--mount", mount, "--connections", strconv.Itoa(b.connections)); err != nil {
		return err
	}
	b.steps.add(whole, time.Since(begun))
	begun = time.Now()
	_, err = b.command("slacker-client", "detach", name)
	b.steps.add(detach, time.Since(begun))
	return err
}

// report prints the figures and writes them down.
func (b *bed) report() error {
	figures := b.steps.figures()
	if err := rounds.WriteJSON(b.json, figures); err != nil {
		return err
	}
	rows := [][]string{{"driver", "by a", "step", "rounds", "p50 ms", "p99 ms", "max ms"}}
	for _, f := range figures {
		rows = append(rows, []string{b.driver, f.Through, f.Step, fmt.Sprint(len(f.Millis)), fmt.Sprintf("%.2f", rounds.Median(f.Millis)),
			fmt.Sprintf("%.2f", rounds.Quantile(f.Millis, 0.99)), fmt.Sprintf("%.2f", rounds.Quantile(f.Millis, 1))})
	}
	return rounds.PrintRows(rows)
}
