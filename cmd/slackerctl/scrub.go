package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
)

type scrubJSON struct {
	Running     bool         `json:"running"`
	Started     string       `json:"started"`
	Finished    string       `json:"finished"`
	DoneBlocks  uint64       `json:"done_blocks"`
	TotalBlocks uint64       `json:"total_blocks"`
	Runs        uint64       `json:"runs"`
	Damage      []damageJSON `json:"damage"`
	MoreDamage  uint64       `json:"more_damage"`
	Problem     string       `json:"problem"`
}

func (a *app) scrub() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "scrub start|stop|status",
		Short: "Verify all data in the background",
		Long: `A scrub reads every live block of the store and verifies its checksum, with the log,
the extent map and the catalog. It runs in the server, at the rate of scrub.rate,
by the schedule of scrub.every or when started, and goes on after a restart.`,
		Example: `  slackerctl scrub start
  slackerctl scrub status`,
		Args: cobra.ArbitraryArgs,
		RunE: a.group(false),
	}
	cmd.AddCommand(
		a.scrubVerb("start", "Start a scrub, or let one go on", "start begins a scrub, or lets one go on that was stopped. It does not wait for the\nend.",
			func(ctx context.Context, c slackerv1connect.AdminServiceClient) (*connect.Response[slackerv1.Scrub], error) {
				return c.StartScrub(ctx, connect.NewRequest(&slackerv1.StartScrubRequest{}))
			}),
		a.scrubVerb("stop", "Stop the scrub where it is", "stop makes the scrub rest. start lets it go on from there.",
			func(ctx context.Context, c slackerv1connect.AdminServiceClient) (*connect.Response[slackerv1.Scrub], error) {
				return c.StopScrub(ctx, connect.NewRequest(&slackerv1.StopScrubRequest{}))
			}),
		a.scrubVerb("status", "Show how far the scrub is and what it found",
			"status shows how far the scrub is, and what it, or the last one, found. The exit\nstatus is 8 when that is damage.",
			func(ctx context.Context, c slackerv1connect.AdminServiceClient) (*connect.Response[slackerv1.Scrub], error) {
				return c.GetScrub(ctx, connect.NewRequest(&slackerv1.GetScrubRequest{}))
			}))
	return cmd
}

func (a *app) scrubVerb(verb, short, long string, do func(context.Context, slackerv1connect.AdminServiceClient) (*connect.Response[slackerv1.Scrub], error)) *cobra.Command {
	return &cobra.Command{
		Use: verb, Short: short, Long: long, Example: "  slackerctl scrub " + verb + "\n  slackerctl scrub " + verb + " --json",
		Args: wantArgs(0, 0), DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			resp, err := do(cmd.Context(), client)
			if err != nil {
				return a.failed(cmd.Context(), err, "")
			}
			if err := a.scrubState(resp.Msg); err != nil || verb != "status" || len(resp.Msg.GetDamage()) == 0 {
				return err
			}
			return block.Errorf(block.Corrupt, "scrub: found damage in %d places", uint64(len(resp.Msg.GetDamage()))+resp.Msg.GetMoreDamage())
		},
	}
}

func (a *app) scrubState(s *slackerv1.Scrub) error {
	out := scrubJSON{Running: s.GetRunning(), Started: stamp(s.GetStarted()), Finished: stamp(s.GetFinished()), DoneBlocks: s.GetDoneBlocks(),
		TotalBlocks: s.GetTotalBlocks(), Runs: s.GetRuns(), MoreDamage: s.GetMoreDamage(), Problem: s.GetProblem(), Damage: toDamage(s.GetDamage())}
	return a.answer(out, func(w io.Writer) {
		state := "not running"
		if s.GetRunning() {
			state = "running"
		}
		line(w, "scrub", fmt.Sprintf("%s, %s of %s verified", state, bytesText(s.GetDoneBlocks()*block.Size), bytesText(s.GetTotalBlocks()*block.Size)))
		line(w, "started", a.when(s.GetStarted()))
		line(w, "last finished", a.when(s.GetFinished()))
		if s.GetProblem() != "" {
			line(w, "PROBLEM", s.GetProblem())
		}
		for _, d := range s.GetDamage() {
			line(w, "DAMAGE", d.GetKind(), d.GetObject(), orDash(strings.Join(d.GetAffected(), ",")), d.GetDetail())
		}
		if n := s.GetMoreDamage(); n > 0 {
			line(w, "DAMAGE", fmt.Sprintf("and %d more", n))
		}
	})
}

func toDamage(damage []*slackerv1.Damage) []damageJSON {
	return list(damage, func(d *slackerv1.Damage) damageJSON {
		return damageJSON{Kind: d.GetKind(), Object: d.GetObject(), Detail: d.GetDetail(), Affected: list(d.GetAffected(), same)}
	})
}

type orphanJSON struct {
	Kind      string `json:"kind"`
	Object    string `json:"object"`
	Detail    string `json:"detail"`
	Bytes     uint64 `json:"bytes"`
	Collected bool   `json:"collected"`
}

func (a *app) gcStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what can be freed and what nothing refers to",
		Long: `status shows what a collection would free, and the orphans: layers, segments, files
and records that nothing refers to. gc takes those that it can be sure of; the others
may be traces of damage and stay, for somebody to look at.`,
		Example:               "  slackerctl gc status\n  slackerctl gc status --json",
		Args:                  wantArgs(0, 0),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			resp, err := client.GetGarbage(cmd.Context(), connect.NewRequest(&slackerv1.GetGarbageRequest{}))
			if err != nil {
				return a.failed(cmd.Context(), err, "")
			}
			out := struct {
				ReclaimableBytes uint64       `json:"reclaimable_bytes"`
				Orphans          []orphanJSON `json:"orphans"`
			}{resp.Msg.GetReclaimableBytes(), list(resp.Msg.GetOrphans(), func(o *slackerv1.Orphan) orphanJSON {
				return orphanJSON{o.GetKind(), o.GetObject(), o.GetDetail(), o.GetBytes(), o.GetCollected()}
			})}
			return a.answer(out, func(w io.Writer) {
				line(w, "can be freed", bytesText(out.ReclaimableBytes))
				for _, o := range out.Orphans {
					what := "stays"
					if o.Collected {
						what = "gc takes it"
					}
					line(w, "orphan", o.Kind, o.Object, bytesText(o.Bytes), what, o.Detail)
				}
			})
		},
	}
}
