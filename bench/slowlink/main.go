// Command slowlink measures what a start costs over links of limited speed: a clone
// of an image is made, attached, mounted, and programs are run from it, with the
// worker's cache off, empty with all read plainly, empty, empty but with a boot trace
// at the server, and warm.
// All take turns in one run. The image is the Go toolchain that is installed; the
// programs are its gofmt and go list.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/slackerd/slacker/bench/hellobench/link"
	"github.com/slackerd/slacker/bench/rounds"
	"github.com/slackerd/slacker/stack"
)

// ways are how a start can go, in the order in which each round has them.
var ways = []way{
	{"off", []string{"--cache-size", "0"}, true},
	{"plain", []string{"--prefetch=false"}, true},
	{"cold", nil, true},    // no start has left a trace
	{"trace", nil, true},   // that of the one before
	{"cached", nil, false}, // after the one before
}

type way struct {
	name  string
	flags []string
	fresh bool // with an empty cache
}

// Figure is one start.
type Figure struct {
	Link, Way       string
	Round           int
	AttachMS, RunMS float64
	ToWorkerBytes   int64
}

type bed struct {
	dir, bin string
	link     *link.Link
	api      string
	runs     int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "slowlink:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	rounds := flag.Int("rounds", 5, "how often each is measured")
	bin := flag.String("bin", "bin", "`directory` of the programs")
	out := flag.String("json", "", "`file` for the figures")
	links := flag.String("links", "unlimited,1g,100m", "which links")
	store := flag.String("store", "", "`directory` that keeps the store with the image; empty: a new one")
	flag.Parse()
	abs, err := filepath.Abs(*bin)
	if err != nil {
		return err
	}
	var figures []Figure
	for _, spec := range link.Specs {
		if !slices.Contains(strings.Split(*links, ","), spec.Name) {
			continue
		}
		fs, err := measure(ctx, spec, abs, *store, *rounds)
		if err != nil {
			return fmt.Errorf("link %s: %w", spec.Name, err)
		}
		figures = append(figures, fs...)
		report(spec, fs)
	}
	if *out == "" {
		return nil
	}
	b, err := json.MarshalIndent(figures, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(*out, append(b, '\n'), 0o644)
}

func measure(ctx context.Context, spec link.Spec, bin, store string, rounds int) (figures []Figure, err error) {
	b := &bed{bin: bin}
	if b.dir, err = os.MkdirTemp("", "slowlink"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.link, err = link.New(ctx, fmt.Sprintf("lazy%d", os.Getpid()), spec); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.link.Close()) }()
	if store == "" {
		store = filepath.Join(b.dir, "store")
	}
	server, err := b.serve(ctx, store)
	if err != nil {
		return nil, err
	}
	defer server.Stop()
	if err := b.importImage(ctx); err != nil {
		return nil, err
	}
	if _, err := b.start(ctx, ways[0], "first"); err != nil { // warms the server up
		return nil, err
	}
	for round := range rounds {
		state := ""
		for _, w := range ways {
			if w.name == "cold" { // traces are hints, and may go at any time
				if err := os.RemoveAll(filepath.Join(store, "traces")); err != nil {
					return nil, err
				}
			}
			if w.fresh {
				state = fmt.Sprintf("%s-%d", w.name, round)
			}
			f, err := b.start(ctx, w, state)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w.name, err)
			}
			f.Link, f.Way, f.Round = spec.Name, w.name, round
			figures = append(figures, f)
		}
	}
	return figures, nil
}

func (b *bed) serve(ctx context.Context, store string) (*stack.Process, error) {
	b.api = "http://" + link.ServerAddress + ":10808"
	return stack.StartProcess(ctx, stack.Command{Name: "slackerd", Netns: b.link.Server, Log: filepath.Join(b.dir, "slackerd.log"),
		Args: []string{filepath.Join(b.bin, "slackerd"), "serve", "--allow-insecure-listen", "--data-dir", store,
			"--nbd-listen", "tcp://" + link.ServerAddress + ":10809", "--api-listen", "tcp://" + link.ServerAddress + ":10808"},
		Ready: func(ctx context.Context) error {
			c, err := b.link.Server.DialContext(ctx, "tcp", link.ServerAddress+":10808")
			if err != nil {
				return err
			}
			return c.Close()
		}})
}

func (b *bed) command(ctx context.Context, ns stack.Namespace, env []string, args ...string) (string, error) {
	args = ns.Command(args)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

func (b *bed) ctl(ctx context.Context, ns stack.Namespace, args ...string) (string, error) {
	return b.command(ctx, ns, nil, append([]string{filepath.Join(b.bin, "slackerctl"), "--server", b.api}, args...)...)
}

// importImage brings the image, unless the store has it.
func (b *bed) importImage(ctx context.Context) error {
	if out, err := b.ctl(ctx, b.link.Server, "snapshot", "list", "image"); err == nil && strings.Contains(out, "v1") {
		return nil
	}
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	_, err = b.ctl(ctx, b.link.Server, "image", "import", strings.TrimSpace(string(root)), "image@v1")
	return err
}

// start makes a clone, attaches it, and runs programs from it.
func (b *bed) start(ctx context.Context, w way, state string) (f Figure, err error) {
	b.runs++
	volume, dir := fmt.Sprintf("run%d-%d", os.Getpid(), b.runs), filepath.Join(b.dir, fmt.Sprintf("mnt%d", b.runs))
	client := []string{filepath.Join(b.bin, "slacker-client"), "--server", b.api, "--state-dir", filepath.Join(b.dir, state)}
	before, err := b.link.Counts()
	if err != nil {
		return f, err
	}
	begun := time.Now()
	args := append(slices.Clone(client), "attach", volume, "--clone", "image@v1", "--driver", "fuse", "--mount", dir)
	if _, err := b.command(ctx, b.link.Worker, nil, append(args, w.flags...)...); err != nil {
		return f, err
	}
	attached := time.Now()
	env := []string{"GOROOT=" + dir, "GOFLAGS=", "GO111MODULE=off", "GOTOOLCHAIN=local", "GOCACHE=" + filepath.Join(b.dir, "gocache")}
	_, err = b.command(ctx, "", env, filepath.Join(dir, "bin/gofmt"), "-l", filepath.Join(dir, "src/encoding"), filepath.Join(dir, "src/net/http"))
	if err == nil {
		_, err = b.command(ctx, "", env, filepath.Join(dir, "bin/go"), "list", "-deps", "net/http", "archive/tar", "database/sql")
	}
	ended := time.Now()
	_, derr := b.command(context.WithoutCancel(ctx), b.link.Worker, nil, append(slices.Clone(client), "detach", volume)...)
	after, cerr := b.link.Counts()
	_, rerr := b.ctl(context.WithoutCancel(ctx), b.link.Server, "volume", "rm", volume)
	return Figure{AttachMS: ms(attached.Sub(begun)), RunMS: ms(ended.Sub(attached)), ToWorkerBytes: after.Sub(before).ToWorker}, errors.Join(err, derr, cerr, rerr)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func median(fs []Figure, way string, of func(Figure) float64) float64 {
	var xs []float64
	for _, f := range fs {
		if f.Way == way {
			xs = append(xs, of(f))
		}
	}
	return rounds.Median(xs)
}

func report(spec link.Spec, fs []Figure) {
	fmt.Printf("%s\n%-8s %10s %10s %10s %12s %8s\n", spec, "", "attach ms", "run ms", "all ms", "MB fetched", "x off")
	total := func(f Figure) float64 { return f.AttachMS + f.RunMS }
	off := median(fs, "off", total)
	for _, w := range ways {
		fmt.Printf("%-8s %10.1f %10.1f %10.1f %12.2f %8.2f\n", w.name, median(fs, w.name, func(f Figure) float64 { return f.AttachMS }),
			median(fs, w.name, func(f Figure) float64 { return f.RunMS }), median(fs, w.name, total),
			median(fs, w.name, func(f Figure) float64 { return float64(f.ToWorkerBytes) / 1e6 }), off/median(fs, w.name, total))
	}
}
