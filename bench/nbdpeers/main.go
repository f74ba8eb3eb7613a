// Command nbdpeers compares slackerd with other NBD servers at the NBD boundary:
// nbdkit's file and memory plugins and qemu-nbd on qcow2, alone and with a chain
// of backing files as deep as a chain of Slacker's snapshots beside it.
//
// All servers run at once on unix sockets and take turns, round by round, under
// the same load from the same client; the figures are medians of the rounds, and
// ratios are formed within a round. The server's CPU time per operation is read
// from the kernel. Each load begins with a short round that is not counted: in a
// virtual machine the first touch of a page of memory can cost more than all
// that is measured here, and whoever comes first would pay it. For the same reason
// every disk is written over twice before the first load that writes: a server that
// overwrites its file in place has the pages of it in memory by then, and one that
// appends has those of the files that it uses in turn.
//
// The client shares the cores with the server, so it is made to cost little: one
// thread, blocking system calls, many requests in one write and many replies in
// one read, nothing allocated. It checks every reply: that it is to a request in
// flight, that it is no error, and that each block read bears its own number; of
// one reply in 64 it compares all bytes and takes the latency.
//
//	go run ./bench/nbdpeers -slackerd bin/slackerd -rounds 5
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"time"

	"github.com/slackerd/slacker/bench/rounds"
)

func main() {
	var o options
	flag.StringVar(&o.slackerd, "slackerd", "bin/slackerd", "the server `program` to measure")
	flag.StringVar(&o.dir, "dir", "", "`directory` for the disks; a temporary one when empty")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds to take the median of")
	flag.DurationVar(&o.each, "each", time.Second, "how long a server is under one load in a round")
	flag.DurationVar(&o.warmUp, "warmup", 200*time.Millisecond, "how long before the rounds, not counted; 0 is not at all")
	flag.IntVar(&o.depth, "depth", 50, "layers of the deep chains")
	flag.Uint64Var(&o.sizeBytes, "size", 1<<30, "bytes of a disk")
	flag.StringVar(&o.json, "json", "", "also write the figures to this `file`")
	only := flag.String("only", "", "take only loads whose name this `regexp` matches")
	peers := flag.String("servers", "", "run only servers whose name this `regexp` matches; slacker runs always")
	flag.Parse()
	var err1, err2 error
	o.only, err1 = regexp.Compile(*only)
	o.servers, err2 = regexp.Compile(*peers)
	if err := errors.Join(err1, err2); err != nil {
		fmt.Fprintln(os.Stderr, "nbdpeers:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "nbdpeers:", err)
		os.Exit(1)
	}
}

type options struct {
	slackerd, dir, json string
	rounds, depth       int
	each, warmUp        time.Duration
	sizeBytes           uint64
	only, servers       *regexp.Regexp
}

func run(ctx context.Context, o options) error {
	if o.dir == "" {
		dir, err := os.MkdirTemp("", "nbdpeers")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		o.dir = dir
	}
	servers, err := start(ctx, o)
	defer stopAll(servers)
	if err != nil {
		return err
	}
	plan := rounds.Plan{Rounds: o.rounds, Each: o.each, WarmUp: o.warmUp, Progress: os.Stderr}
	var figures []*rounds.Figure
	touched := false
	for _, l := range loads() {
		if !o.only.MatchString(l.name) {
			continue
		}
		if l.write && !touched {
			touched = true
			if err := overwrite(ctx, servers, o.sizeBytes); err != nil {
				return err
			}
		}
		row, err := rounds.Take(ctx, plan, l.name, servers, func(s *server) string { return s.name },
			func(s *server, each time.Duration) (rounds.Sample, error) { return measure(s, l, o.sizeBytes, each) })
		if err != nil {
			return err
		}
		figures = append(figures, row...)
	}
	if err := rounds.WriteJSON(o.json, figures); err != nil {
		return err
	}
	return print(figures)
}

// overwrite writes every disk over twice.
func overwrite(ctx context.Context, servers []*server, size uint64) error {
	for i := range 2 * len(servers) {
		s := servers[i%len(servers)]
		fmt.Fprintf(os.Stderr, "\rwriting over %-30s", s.name)
		if err := fill(ctx, s, size); err != nil {
			return fmt.Errorf("write over %s: %w", s.name, err)
		}
	}
	return nil
}

// print writes the medians, and how slacker compares, round by round.
func print(figures []*rounds.Figure) error {
	ours := map[string]*rounds.Figure{} // the first of each load
	for _, f := range figures {
		if ours[f.Load] == nil {
			ours[f.Load] = f
		}
	}
	return rounds.Print("server", figures,
		rounds.Of("op/s", 0, func(f *rounds.Figure) []float64 { return f.Rate }),
		rounds.Of("server CPU us/op", 1, func(f *rounds.Figure) []float64 { return f.CPU }),
		rounds.Of("p50 us", 0, func(f *rounds.Figure) []float64 { return f.P50 }),
		rounds.Of("p99 us", 0, func(f *rounds.Figure) []float64 { return f.P99 }),
		rounds.Column{Title: "slacker is", Cell: func(f *rounds.Figure) string { return ours[f.Load].Against(f) }})
}
