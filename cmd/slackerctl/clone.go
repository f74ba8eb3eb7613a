package main

import (
	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
)

func (a *app) clone() *cobra.Command {
	return &cobra.Command{
		Use:   "clone VOLUME@SNAPSHOT NAME",
		Short: "Make a volume that starts as a snapshot",
		Long: `clone makes a writable volume that starts as a snapshot. It takes the same short
time for any size and no space until it is written. The two are independent: either
can be deleted at any time.`,
		Example: `  slackerctl clone debian@v1 web
  slackerctl clone debian@v1 ci/runner-7 --json`,
		Args:                  wantArgs(2, 2),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			volume, snapshot, client, err := a.snapshotClient(args[0])
			if err != nil {
				return err
			}
			req := &slackerv1.CloneSnapshotRequest{Volume: volume, Snapshot: snapshot, NewVolume: args[1]}
			resp, err := client.CloneSnapshot(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return a.failed(cmd.Context(), err, args[0])
			}
			return a.done(toVolume(resp.Msg), "volume %s made from %s, %s", resp.Msg.GetName(), args[0], bytesText(resp.Msg.GetSizeBytes()))
		},
		ValidArgsFunction: a.completeTarget(false, true),
	}
}
