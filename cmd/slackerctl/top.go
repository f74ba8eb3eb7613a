package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
)

// minTopInterval bounds what slackerctl top costs the server.
const minTopInterval = 100 * time.Millisecond

// clearScreen puts the cursor of a terminal at its top and empties it.
const clearScreen = "\x1b[H\x1b[J"

type topFlags struct {
	once     bool
	interval time.Duration
	sort     string
	by       string
	limit    int
}

func (a *app) top() *cobra.Command {
	var f topFlags
	cmd := &cobra.Command{
		Use:   "top [--once] [--by volume|connection] [--interval DURATION] [--sort COLUMN]",
		Short: "Show what volumes or connections are doing, live",
		Long: `top shows what the connections to each volume and snapshot did in the last interval:
reads, writes and flushes a second, bytes a second, the time that half (p50) and 99 of
100 (p99) of the reads and the writes took at most, and failed commands. Volumes that
nobody is connected to are not shown. With --by connection each NBD connection has a
line of its own, with its peer and its number, which the log of slow requests calls
conn.

Times are from the arrival of a command at the server to its result, without the
network to the worker; they come from buckets that are a factor of up to 1.7 wide.
--json writes one object a line, one line an interval.`,
		Example: `  slackerctl top
  slackerctl top --sort read-p99 --interval 5s
  slackerctl top --by connection --sort write
  slackerctl top --once --json`,
		Args:                  wantArgs(0, 0),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.interval < minTopInterval {
				return block.Errorf(block.Invalid, "top: interval %v: want at least %v", f.interval, minTopInterval)
			}
			if f.limit < 0 {
				return block.Errorf(block.Invalid, "top: limit %d: want 0, for all, or more", f.limit)
			}
			if f.by != byVolume && f.by != byConnection {
				return block.Errorf(block.Invalid, "top: by %q: want %s or %s", f.by, byVolume, byConnection)
			}
			if _, err := topOrder(f.sort); err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			return a.runTop(cmd.Context(), client, f)
		},
	}
	cmd.Flags().BoolVar(&f.once, "once", false, "show one interval and end")
	cmd.Flags().DurationVar(&f.interval, "interval", 2*time.Second, "how `long` each interval is")
	cmd.Flags().StringVar(&f.sort, "sort", "traffic", "`column` to sort by, largest first: "+topOrderNames())
	cmd.Flags().StringVar(&f.by, "by", byVolume, "what a line is about: `volume` or connection")
	_ = cmd.RegisterFlagCompletionFunc("by", cobra.FixedCompletions([]string{byVolume, byConnection}, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	cmd.Flags().IntVar(&f.limit, "limit", 0, "show the first `N` only; 0: all")
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(orderNames(), cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	return cmd
}

// runTop shows interval after interval until ctx ends, which is how a person
// leaves it and no error.
func (a *app) runTop(ctx context.Context, client slackerv1connect.AdminServiceClient, f topFlags) error {
	before, err := a.activity(ctx, client, f.by)
	if err != nil {
		return err
	}
	tick := time.NewTicker(f.interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if f.once {
				return block.Wrap(block.Unavailable, ctx.Err(), "top")
			}
			return nil
		case <-tick.C:
		}
		after, err := a.activity(ctx, client, f.by)
		if ctx.Err() != nil && !f.once {
			return nil
		}
		if err != nil {
			return err
		}
		if err := a.showTop(topOf(before, after, f.by, f.sort, f.limit), f.once); err != nil || f.once {
			return err
		}
		before = after
	}
}

func (a *app) activity(ctx context.Context, client slackerv1connect.AdminServiceClient, by string) (*slackerv1.Activity, error) {
	resp, err := client.GetActivity(ctx, connect.NewRequest(&slackerv1.GetActivityRequest{ByConnection: by == byConnection}))
	if err != nil {
		return nil, a.failed(ctx, err, "")
	}
	return resp.Msg, nil
}

func (a *app) showTop(t topJSON, once bool) error {
	if a.json {
		enc := json.NewEncoder(a.stdout)
		enc.SetEscapeHTML(false)
		return block.Wrap(block.IO, enc.Encode(t), "write the answer")
	}
	if !once && a.terminal(a.stdout) {
		if _, err := io.WriteString(a.stdout, clearScreen); err != nil {
			return block.Wrap(block.IO, err, "write the answer")
		}
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	byConn := t.Connections != nil
	who := []string{"VOLUME", "CONNS"}
	if byConn {
		who = []string{"CONN", "PEER", "VOLUME", "IN FLIGHT"}
	}
	line(w, append(who, "READ/s", "READ B/s", "p50", "p99", "WRITE/s", "WRITE B/s", "p50", "p99", "FLUSH/s", "OTHER/s", "ERRORS/s")...)
	for _, v := range t.rows() {
		who := []string{v.Target, fmt.Sprint(v.Connections)}
		if byConn {
			who = []string{v.number(), v.peer(), v.Target, fmt.Sprint(v.InFlight)}
		}
		line(w, append(who, rateText(v.Read.OpsPerSecond), bytesText(uint64(v.Read.BytesPerSecond)), latencyText(v.Read.P50), latencyText(v.Read.P99),
			rateText(v.Write.OpsPerSecond), bytesText(uint64(v.Write.BytesPerSecond)), latencyText(v.Write.P50), latencyText(v.Write.P99),
			rateText(v.Flush.OpsPerSecond), rateText(v.Other.OpsPerSecond), rateText(v.ErrorsPerSecond))...)
	}
	if len(t.rows()) == 0 {
		line(w, "(no connections)")
	}
	return block.Wrap(block.IO, w.Flush(), "write the answer")
}

// rateText writes a rate shortly, but no rate as 0 that is none.
func rateText(perSecond float64) string {
	switch {
	case perSecond == 0:
		return "0"
	case perSecond < 10:
		return fmt.Sprintf("%.1f", max(perSecond, 0.1))
	}
	return fmt.Sprintf("%.0f", perSecond)
}

func latencyText(seconds float64) string {
	if seconds == 0 {
		return "-"
	}
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
