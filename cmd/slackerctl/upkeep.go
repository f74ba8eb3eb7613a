package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
)

func (a *app) check() *cobra.Command {
	var data bool
	cmd := &cobra.Command{
		Use:   "check [--data]",
		Short: "Verify the store",
		Long: `check verifies the store of a running server: its catalog, the extent map and the
segments, and with --data also the checksum of every live block. It changes nothing.
Damage is listed with the volumes that it touches, and the exit status is 8.`,
		Example: `  slackerctl check
  slackerctl check --data --json`,
		Args:                  wantArgs(0, 0),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			damage, err := a.runCheck(cmd.Context(), data)
			if err != nil {
				return a.failed(cmd.Context(), err, "")
			}
			return a.damageFound(damage)
		},
	}
	cmd.Flags().BoolVar(&data, "data", false, "also read and verify every live block")
	return cmd
}

func (a *app) runCheck(ctx context.Context, data bool) ([]*slackerv1.Damage, error) {
	client, err := a.client()
	if err != nil {
		return nil, err
	}
	stream, err := client.Check(ctx, connect.NewRequest(&slackerv1.CheckRequest{Data: data}))
	if err != nil {
		return nil, err
	}
	defer func() { _ = stream.Close() }() // read only
	bar := a.newProgress()
	defer bar.finish()
	var damage []*slackerv1.Damage
	finished := false
	for stream.Receive() {
		m := stream.Msg()
		damage = append(damage, m.GetDamage()...)
		if finished = m.GetFinished(); !finished && len(m.GetDamage()) == 0 {
			bar.update("check", m.GetDone(), m.GetTotal(), m.GetUnit())
		}
	}
	return damage, ended(stream.Err(), finished, "check")
}

// ended is the error of a stream that has to end with its last event.
func ended(err error, finished bool, what string) error {
	if err == nil && !finished {
		return block.Errorf(block.Unavailable, "%s: the server broke off before the end; its log says more", what)
	}
	return err
}

func (a *app) damageFound(damage []*slackerv1.Damage) error {
	out := struct {
		Damage []damageJSON `json:"damage"`
	}{toDamage(damage)}
	if len(damage) == 0 {
		return a.done(out, "no damage found")
	}
	err := a.answer(out, func(w io.Writer) {
		line(w, "KIND", "OBJECT", "AFFECTED", "DETAIL")
		for _, d := range damage {
			line(w, d.GetKind(), d.GetObject(), orDash(strings.Join(d.GetAffected(), ",")), d.GetDetail())
		}
	})
	if err != nil {
		return err
	}
	return block.Errorf(block.Corrupt, "check: found damage in %d places", len(damage))
}

func (a *app) gc() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "gc [--dry-run]",
		Short: "Give space back now",
		Long: `gc gives the space of deleted and overwritten data back at once, as the server does
by itself in the background. What could not be collected is listed, and the exit
status is 9.`,
		Example: `  slackerctl gc --dry-run
  slackerctl gc --json`,
		Args:                  wantArgs(0, 0),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			last, err := a.runGC(cmd.Context(), dryRun)
			if err != nil {
				return a.failed(cmd.Context(), err, "")
			}
			return a.collected(last, dryRun)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be freed")
	cmd.AddCommand(a.gcStatus())
	return cmd
}

// runGC returns the last event.
func (a *app) runGC(ctx context.Context, dryRun bool) (*slackerv1.CollectGarbageEvent, error) {
	client, err := a.client()
	if err != nil {
		return nil, err
	}
	stream, err := client.CollectGarbage(ctx, connect.NewRequest(&slackerv1.CollectGarbageRequest{DryRun: dryRun}))
	if err != nil {
		return nil, err
	}
	defer func() { _ = stream.Close() }() // read only
	bar := a.newProgress()
	defer bar.finish()
	var last *slackerv1.CollectGarbageEvent
	for stream.Receive() {
		last = stream.Msg()
		if !last.GetFinished() {
			bar.update(last.GetStep(), last.GetDone(), last.GetTotal(), last.GetUnit())
		}
	}
	return last, ended(stream.Err(), last.GetFinished(), "gc")
}

func (a *app) collected(last *slackerv1.CollectGarbageEvent, dryRun bool) error {
	out := gcJSON{DryRun: dryRun, FreedBytes: last.GetFreedBytes(), Errors: list(last.GetErrors(), same)}
	did := "freed"
	if dryRun {
		did = "would free"
	}
	err := a.answer(out, func(w io.Writer) {
		line(w, fmt.Sprintf("%s %s", did, bytesText(last.GetFreedBytes())))
		for _, e := range last.GetErrors() {
			line(w, "not collected: "+e)
		}
	})
	if n := len(last.GetErrors()); err == nil && n > 0 {
		return block.Errorf(block.IO, "gc: %d items could not be collected", n)
	}
	return err
}
