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
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
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

// figure is what one load did to one device, by round.
type figure struct {
	Load   string    `json:"load"`
	Device string    `json:"device"`
	Rate   []float64 `json:"operations_per_second"`
	MB     []float64 `json:"mb_per_second"`
	CPU    []float64 `json:"machine_cpu_us_per_operation"`
	P50    []float64 `json:"latency_p50_us"`
	P99    []float64 `json:"latency_p99_us"`
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
	var figures []*figure
	for _, l := range loads {
		if !o.only.MatchString(l.name) {
			continue
		}
		row, err := take(ctx, o, l, s.devices)
		if err != nil {
			return err
		}
		figures = append(figures, row...)
	}
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

// take puts the devices under one load in turn, round by round.
func take(ctx context.Context, o options, l load, devices []*device) ([]*figure, error) {
	row := make([]*figure, len(devices))
	for i, d := range devices {
		row[i] = &figure{Load: l.name, Device: d.name}
	}
	for round := range o.rounds {
		for i, d := range devices {
			fmt.Fprintf(os.Stderr, "\r%-30s round %d/%d  %-26s", l.name, round+1, o.rounds, d.name)
			m, err := measure(ctx, d.path, l, o.each)
			if err != nil {
				return nil, fmt.Errorf("%s on %s: %w", l.name, d.name, err)
			}
			f := row[i]
			f.Rate, f.MB, f.CPU = append(f.Rate, m.rate), append(f.MB, m.mb), append(f.CPU, m.cpuMicros)
			f.P50, f.P99 = append(f.P50, m.p50Micros), append(f.P99, m.p99Micros)
		}
	}
	fmt.Fprint(os.Stderr, "\r", strings.Repeat(" ", 79), "\r")
	return row, nil
}

// print writes the medians, and how each device compares with nbdfuse on the
// same server and with the plain loop device, round by round.
func print(figures []*figure) error {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(cells ...string) { _, _ = fmt.Fprintln(w, strings.Join(cells, "\t")+"\t") } // to memory
	line("load", "device", "op/s", "MB/s", "CPU us/op", "p50 us", "p99 us", "of nbdfuse", "of a plain loop")
	for _, f := range figures {
		of := func(name string) string {
			for _, g := range figures {
				if g != f && g.Load == f.Load && g.Device == name {
					rs := make([]float64, len(f.Rate))
					for i := range rs {
						rs[i] = f.Rate[i] / g.Rate[i]
					}
					return fmt.Sprintf("%.2fx", median(rs))
				}
			}
			return "-"
		}
		nbdfuse := "-"
		if server, ours := strings.CutPrefix(f.Device, "slacker on "); ours {
			nbdfuse = of("nbdfuse on " + server)
		}
		line(f.Load, f.Device, fmt.Sprintf("%.0f", median(f.Rate)), fmt.Sprintf("%.0f", median(f.MB)), fmt.Sprintf("%.1f", median(f.CPU)),
			fmt.Sprintf("%.0f", median(f.P50)), fmt.Sprintf("%.0f", median(f.P99)), nbdfuse, of(plainLoop))
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
