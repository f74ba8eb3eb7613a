// Command nbdpeers compares slackerd with other NBD servers at the NBD boundary:
// nbdkit's file and memory plugins and qemu-nbd on qcow2, alone and with a chain
// of backing files as deep as a chain of Slacker's snapshots beside it.
//
// All servers run at once on unix sockets and take turns, round by round, under
// the same load from the same client; the figures are medians of the rounds, and
// ratios are formed within a round. The server's CPU time per operation is read
// from the kernel. Each load begins with a short round that is not counted: in a
// virtual machine the first touch of a page of memory can cost more than all
// that is measured here, and whoever comes first would pay it.
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
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
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

// figure is what one load did to one server, by round.
type figure struct {
	Load   string    `json:"load"`
	Server string    `json:"server"`
	Rate   []float64 `json:"operations_per_second"`
	CPU    []float64 `json:"server_cpu_us_per_operation"`
	P50    []float64 `json:"latency_p50_us"`
	P99    []float64 `json:"latency_p99_us"`
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
	var figures []*figure
	for _, l := range loads() {
		if !o.only.MatchString(l.name) {
			continue
		}
		row, err := take(ctx, o, l, servers)
		if err != nil {
			return err
		}
		figures = append(figures, row...)
	}
	fmt.Fprintln(os.Stderr)
	if o.json != "" {
		b, err := json.MarshalIndent(figures, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.json, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	return print(figures)
}

// take puts the servers under one load in turn, round by round.
func take(ctx context.Context, o options, l load, servers []*server) ([]*figure, error) {
	row := make([]*figure, len(servers))
	for i, s := range servers {
		row[i] = &figure{Load: l.name, Server: s.name}
	}
	for round := 0; round <= o.rounds; round++ { // round 0 warms up
		if round == 0 && o.warmUp == 0 {
			continue
		}
		for i, s := range servers {
			fmt.Fprintf(os.Stderr, "\r%-40s round %d/%d  %-24s", l.name, round, o.rounds, s.name)
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			each := o.each
			if round == 0 {
				each = o.warmUp
			}
			m, err := measure(s, l, o.sizeBytes, each)
			if err != nil {
				return nil, fmt.Errorf("%s on %s: %w", l.name, s.name, err)
			}
			if round == 0 {
				continue
			}
			f := row[i]
			f.Rate, f.CPU = append(f.Rate, m.rate), append(f.CPU, m.cpuMicros)
			f.P50, f.P99 = append(f.P50, m.p50Micros), append(f.P99, m.p99Micros)
		}
	}
	return row, nil
}

// print writes the medians, and how slacker compares, round by round.
func print(figures []*figure) error {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(cells ...string) { _, _ = io.WriteString(w, strings.Join(cells, "\t")+"\t\n") } // to memory
	row("load", "server", "op/s", "server CPU us/op", "p50 us", "p99 us", "slacker is")
	var ours *figure
	for _, f := range figures {
		if ours == nil || ours.Load != f.Load {
			ours = f
		}
		ratio := "-"
		if f != ours {
			rs := make([]float64, len(f.Rate))
			for i := range rs {
				rs[i] = ours.Rate[i] / f.Rate[i]
			}
			ratio = fmt.Sprintf("%.2fx", median(rs))
		}
		row(f.Load, f.Server, fmt.Sprintf("%.0f", median(f.Rate)), fmt.Sprintf("%.1f", median(f.CPU)),
			fmt.Sprintf("%.0f", median(f.P50)), fmt.Sprintf("%.0f", median(f.P99)), ratio)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := os.Stdout.WriteString(out.String())
	return err
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s) == 0 {
		return 0
	}
	return (s[len(s)/2] + s[(len(s)-1)/2]) / 2
}
