// Command fusepeers compares block devices that are made in user space: the fuse
// driver of slacker-client, and nbdfuse of libnbd with a loop device on its file,
// each on a slackerd and on nbdkit's memory plugin; and a loop device on a plain
// file in memory, which is what all that costs is measured against.
//
// All devices exist at once and take turns, round by round, under the same load
// of fio; the figures are medians of the rounds, and ratios are formed within a
// round. Every device is filled first. The CPU time per operation is that of the
// whole machine, fio and server included.
//
//	go run ./bench/fusepeers -bin bin -rounds 5
//
// It needs root, fio, nbdfuse and nbdkit.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/bench/rounds"
)

type options struct {
	bin, dir, json string
	rounds         int
	each           time.Duration
	sizeBytes      uint64
	only, devices  *regexp.Regexp
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "`directory` with slackerd and slacker-client")
	flag.StringVar(&o.json, "json", "", "also write the figures to this `file`")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds to take the median of")
	flag.DurationVar(&o.each, "each", time.Second, "how long a device is under one load in a round")
	flag.Uint64Var(&o.sizeBytes, "size", 256<<20, "bytes of a device")
	only := flag.String("only", "", "take only loads whose name this `regexp` matches")
	devices := flag.String("devices", "", "make only devices whose name this `regexp` matches")
	flag.Parse()
	var err1, err2 error
	o.only, err1 = regexp.Compile(*only)
	o.devices, err2 = regexp.Compile(*devices)
	err := errors.Join(err1, err2)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
		err = run(ctx, o)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fusepeers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("want root, to make loop devices")
	}
	if o.dir, err = os.MkdirTemp("/dev/shm", "fusepeers"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	s := &stage{options: o}
	defer func() { err = errors.Join(err, s.takeDown()) }()
	if err := s.setUp(ctx); err != nil {
		return err
	}
	plan := rounds.Plan{Rounds: o.rounds, Each: o.each, Progress: os.Stderr}
	var figures []*rounds.Figure
	for _, l := range loads {
		if !o.only.MatchString(l.name) {
			continue
		}
		row, err := rounds.Take(ctx, plan, l.name, s.devices, func(d *device) string { return d.name },
			func(d *device, each time.Duration) (rounds.Sample, error) { return measure(ctx, d.path, l, each) })
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

// print writes the medians, and how each device compares with nbdfuse on the
// same server and with the plain loop device, round by round.
func print(figures []*rounds.Figure) error {
	return rounds.Print("device", figures,
		rounds.Of("op/s", 0, func(f *rounds.Figure) []float64 { return f.Rate }),
		rounds.Of("MB/s", 0, func(f *rounds.Figure) []float64 { return f.MB }),
		rounds.Of("CPU us/op", 1, func(f *rounds.Figure) []float64 { return f.CPU }),
		rounds.Of("p50 us", 0, func(f *rounds.Figure) []float64 { return f.P50 }),
		rounds.Of("p99 us", 0, func(f *rounds.Figure) []float64 { return f.P99 }),
		rounds.Column{Title: "of nbdfuse", Cell: func(f *rounds.Figure) string {
			server, ours := strings.CutPrefix(f.Name, "slacker on ")
			if !ours {
				return "-"
			}
			return f.Against(rounds.Find(figures, f.Load, "nbdfuse on "+server))
		}},
		rounds.Column{Title: "of a plain loop", Cell: func(f *rounds.Figure) string {
			return f.Against(rounds.Find(figures, f.Load, plainLoop))
		}})
}
