package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
)

func (a *app) snapshot() *cobra.Command {
	return a.noun(&cobra.Command{
		Use:   "snapshot",
		Short: "Make, list and delete snapshots, and roll back to them",
		Long: `snapshot makes, lists and deletes snapshots, immutable states of a volume written
VOLUME@SNAPSHOT, and rolls volumes back to them.`,
		Example: `  slackerctl snapshot create web@before-upgrade
  slackerctl snapshot list web`,
	}, a.snapshotCreate(), a.snapshotList(), a.snapshotShow(), a.snapshotRm(), a.snapshotRollback())
}

func (a *app) snapshotCreate() *cobra.Command {
	return &cobra.Command{
		Use:   "create VOLUME@SNAPSHOT",
		Short: "Make a snapshot of a volume",
		Long: `create makes a snapshot of a volume as it is now, also while it is in use. It takes
the same time for any size. What a worker has not flushed yet may be missing.`,
		Example:               `  slackerctl snapshot create web@before-upgrade`,
		Args:                  wantArgs(1, 1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			volume, snapshot, client, err := a.snapshotClient(args[0])
			if err != nil {
				return err
			}
			req := &slackerv1.CreateSnapshotRequest{Volume: volume, Snapshot: snapshot}
			resp, err := client.CreateSnapshot(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return a.failed(cmd.Context(), err, volume)
			}
			return a.done(toSnapshot(resp.Msg), "snapshot %s made", snapshotName(resp.Msg))
		},
		ValidArgsFunction: a.completeTarget(true, false),
	}
}

func (a *app) snapshotList() *cobra.Command {
	return &cobra.Command{
		Use:   "list [VOLUME]",
		Short: "List snapshots",
		Long: `list lists the snapshots of a volume, or of all. WRITTEN is what was written
between the snapshot before and this one.`,
		Example: `  slackerctl snapshot list
  slackerctl snapshot list web --json`,
		Args:                  wantArgs(0, 1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			volume := strings.Join(args, "")
			resp, err := client.ListSnapshots(cmd.Context(), connect.NewRequest(&slackerv1.ListSnapshotsRequest{Volume: volume}))
			if err != nil {
				return a.failed(cmd.Context(), err, volume)
			}
			snapshots := resp.Msg.GetSnapshots()
			out := struct {
				Snapshots []snapshotJSON `json:"snapshots"`
			}{list(snapshots, toSnapshot)}
			return a.answer(out, func(w io.Writer) {
				line(w, "NAME", "SIZE", "WRITTEN", "CREATED")
				for _, s := range snapshots {
					line(w, snapshotName(s), bytesText(s.GetSizeBytes()), bytesText(s.GetLayerBytes()), a.when(s.GetCreated()))
				}
			})
		},
		ValidArgsFunction: a.completeTarget(true, false),
	}
}

func (a *app) snapshotShow() *cobra.Command {
	return &cobra.Command{
		Use:                   "show VOLUME@SNAPSHOT",
		Short:                 "Show a snapshot and its space",
		Long:                  `show describes a snapshot and the space that it holds, exact to the block.`,
		Example:               `  slackerctl snapshot show web@before-upgrade`,
		Args:                  wantArgs(1, 1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			volume, snapshot, client, err := a.snapshotClient(args[0])
			if err != nil {
				return err
			}
			req := &slackerv1.GetSnapshotRequest{Volume: volume, Snapshot: snapshot, WithSpace: true}
			resp, err := client.GetSnapshot(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return a.failed(cmd.Context(), err, args[0])
			}
			s := resp.Msg.GetSnapshot()
			out := struct {
				snapshotJSON
				Space spaceJSON `json:"space"`
			}{toSnapshot(s), toSpace(resp.Msg.GetSpace())}
			return a.answer(out, func(w io.Writer) {
				line(w, "name", snapshotName(s))
				line(w, "size", bytesText(s.GetSizeBytes()))
				line(w, "created", a.when(s.GetCreated()))
				line(w, "written", bytesText(s.GetLayerBytes())+" since the snapshot before")
				spaceText(w, resp.Msg.GetSpace())
			})
		},
		ValidArgsFunction: a.completeTarget(false, true),
	}
}

func (a *app) snapshotRm() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "rm VOLUME@SNAPSHOT [--dry-run]",
		Short: "Delete a snapshot",
		Long: `rm deletes a snapshot. Its volume, other snapshots and its clones are not touched.
Space that nothing else holds comes back in the background.`,
		Example: `  slackerctl snapshot rm web@before-upgrade --dry-run
  slackerctl snapshot rm web@before-upgrade`,
		Args:                  wantArgs(1, 1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			volume, snapshot, client, err := a.snapshotClient(args[0])
			if err != nil {
				return err
			}
			req := &slackerv1.DeleteSnapshotRequest{Volume: volume, Snapshot: snapshot, DryRun: dryRun}
			resp, err := client.DeleteSnapshot(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return a.failed(cmd.Context(), err, args[0])
			}
			return a.deleted(resp.Msg, dryRun)
		},
		ValidArgsFunction: a.completeTarget(false, true),
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be freed")
	return cmd
}

func (a *app) snapshotRollback() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "rollback VOLUME@SNAPSHOT [--yes]",
		Short: "Make a volume what it was at a snapshot",
		Long: `rollback makes a volume what it was at one of its snapshots. What was written since
the newest snapshot is lost, for good; all snapshots stay. A volume in use is refused.
On a terminal it asks first; elsewhere it wants --yes.`,
		Example: `  slackerctl snapshot rollback web@before-upgrade
  slackerctl snapshot rollback web@before-upgrade --yes`,
		Args:                  wantArgs(1, 1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			volume, snapshot, err := block.SplitSnapshot(args[0])
			if err != nil {
				return err
			}
			if !yes {
				if err := a.confirmRollback(cmd, args[0], volume, snapshot); err != nil {
					return err
				}
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			req := &slackerv1.RollbackVolumeRequest{Volume: volume, Snapshot: snapshot}
			resp, err := client.RollbackVolume(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return a.failed(cmd.Context(), err, args[0])
			}
			return a.done(toVolume(resp.Msg), "volume %s rolled back to %s", volume, args[0])
		},
		ValidArgsFunction: a.completeTarget(false, true),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// confirmRollback asks, and returns an error unless the answer is yes.
func (a *app) confirmRollback(cmd *cobra.Command, target, volume, snapshot string) error {
	if a.json || !a.terminal(a.stdin) || !a.terminal(a.stderr) {
		return block.Errorf(block.Invalid, "roll back to %s: no terminal to ask on: want --yes, since what was written to %s since its newest snapshot is lost", target, volume)
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	if _, err := client.GetSnapshot(cmd.Context(), connect.NewRequest(&slackerv1.GetSnapshotRequest{Volume: volume, Snapshot: snapshot})); err != nil {
		return a.failed(cmd.Context(), err, target)
	}
	resp, err := client.GetVolume(cmd.Context(), connect.NewRequest(&slackerv1.GetVolumeRequest{Name: volume}))
	if err != nil {
		return a.failed(cmd.Context(), err, volume)
	}
	_, err = fmt.Fprintf(a.stderr, "Roll back %s to %s? What was written since its newest snapshot (%s) is lost. [y/N] ",
		volume, target, bytesText(resp.Msg.GetVolume().GetHeadBytes()))
	if err != nil {
		return block.Wrap(block.IO, err, "ask on the terminal")
	}
	reply, err := bufio.NewReader(io.LimitReader(a.stdin, 64)).ReadString('\n')
	if err != nil && reply == "" {
		return block.Errorf(block.Invalid, "roll back to %s: no answer: %w", target, err)
	}
	switch strings.ToLower(strings.TrimSpace(reply)) {
	case "y", "yes":
		return nil
	default:
		return block.Errorf(block.Invalid, "roll back to %s: not done: the answer was %q, want y or yes", target, strings.TrimSpace(reply))
	}
}
