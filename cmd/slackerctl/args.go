package main

import (
	"context"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
)

// completionTimeout bounds asking the server for names while a person waits
// for the tab key.
const completionTimeout = 2 * time.Second

// group is what a command does that only holds others.
func (a *app) group(helpAlone bool) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			text := ""
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				text = ", did you mean " + strings.Join(near, " or ") + "?"
			}
			return block.Errorf(block.Invalid, "%s: no command %q%s: want %s", cmd.CommandPath(), args[0], text, verbs(cmd))
		}
		if helpAlone {
			return cmd.Help()
		}
		return block.Errorf(block.Invalid, "%s: no command given: want %s", cmd.CommandPath(), verbs(cmd))
	}
}

func verbs(cmd *cobra.Command) string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return "one of " + strings.Join(names, ", ")
}

// noun makes a command that only holds others.
func (a *app) noun(cmd *cobra.Command, verbs ...*cobra.Command) *cobra.Command {
	cmd.Args, cmd.RunE = cobra.ArbitraryArgs, a.group(false)
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(verbs...)
	return cmd
}

// wantArgs refuses another number of arguments than least to most.
func wantArgs(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= least && len(args) <= most {
			return nil
		}
		return block.Errorf(block.Invalid, "%s: got %d arguments %q: want %s; see %s --help",
			cmd.CommandPath(), len(args), args, strings.TrimSpace(strings.TrimPrefix(cmd.UseLine(), cmd.CommandPath())), cmd.CommandPath())
	}
}

// completeTarget completes the first argument with names of the server.
func (a *app) completeTarget(volumes, snapshots bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, completionTimeout)
		defer cancel()
		names, err := a.names(ctx, volumes, snapshots)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// names lists volumes, and snapshots as VOLUME@SNAPSHOT.
func (a *app) names(ctx context.Context, volumes, snapshots bool) ([]string, error) {
	client, err := a.client()
	if err != nil {
		return nil, err
	}
	var names []string
	if volumes {
		resp, err := client.ListVolumes(ctx, connect.NewRequest(&slackerv1.ListVolumesRequest{}))
		if err != nil {
			return nil, err
		}
		for _, v := range resp.Msg.GetVolumes() {
			names = append(names, v.GetName())
		}
	}
	if snapshots {
		resp, err := client.ListSnapshots(ctx, connect.NewRequest(&slackerv1.ListSnapshotsRequest{}))
		if err != nil {
			return nil, err
		}
		for _, s := range resp.Msg.GetSnapshots() {
			names = append(names, s.GetVolume()+"@"+s.GetName())
		}
	}
	return names, nil
}
