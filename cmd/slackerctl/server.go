package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
)

// upgradePoll is how often the server is asked whether it has been upgraded.
const upgradePoll = 20 * time.Millisecond

type upgradeJSON struct {
	Before      string  `json:"before"`
	After       string  `json:"after"`
	PauseMillis float64 `json:"pause_ms"`
	Connections uint64  `json:"connections"`
}

func (a *app) serverNoun() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "server upgrade",
		Short: "Upgrade the server",
		Long: `server is about the program of the server: slackerctl server upgrade replaces it while
clients are attached.`,
		Example: "  slackerctl server upgrade",
		Args:    cobra.ArbitraryArgs,
		RunE:    a.group(false),
	}
	cmd.AddCommand(a.serverUpgrade())
	return cmd
}

func (a *app) serverUpgrade() *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Replace the server's program by the one that is installed",
		Long: `upgrade has the server replace its program by the one that is installed in its place,
in the same process, and waits for it. The installed program reads the configuration
first; if it does not accept that, the running one stays.

Clients notice a pause: connections in plaintext stay open. Connections with TLS are
closed, and their clients connect again at once. It takes the permission admin on
everything.`,
		Example: `  apt-get install --only-upgrade slacker && slackerctl server upgrade
  slackerctl server upgrade --json`,
		Args:                  wantArgs(0, 0),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			begun, err := client.UpgradeServer(cmd.Context(), connect.NewRequest(&slackerv1.UpgradeServerRequest{}))
			if err != nil {
				return a.failed(cmd.Context(), err, "")
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			s, err := awaitUpgrade(ctx, client, begun.Msg.GetUpgrades())
			if err != nil {
				return block.Errorf(block.Unavailable, "upgrade: the server, which is to run %s, does not say after %v that it does (see its log): %w", begun.Msg.GetInstalled(), wait, err)
			}
			u := s.GetUpgrade()
			out := upgradeJSON{Before: u.GetFrom(), After: s.GetVersion(), PauseMillis: float64(u.GetPauseMicros()) / 1000, Connections: u.GetConnections()}
			return a.answer(out, func(w io.Writer) {
				line(w, "before", out.Before)
				line(w, "after", out.After)
				line(w, "pause", fmt.Sprintf("%.1f ms", out.PauseMillis))
				line(w, "connections kept", fmt.Sprint(out.Connections))
			})
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait for the server")
	return cmd
}

// awaitUpgrade waits until the server has done more upgrades than so many. It does
// not answer in between.
func awaitUpgrade(ctx context.Context, client slackerv1connect.AdminServiceClient, count uint64) (*slackerv1.Status, error) {
	tick := time.NewTicker(upgradePoll)
	defer tick.Stop()
	for {
		resp, err := client.GetStatus(ctx, connect.NewRequest(&slackerv1.GetStatusRequest{}))
		if err == nil && resp.Msg.GetUpgrade().GetCount() > count {
			return resp.Msg, nil
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = ctx.Err()
			}
			return nil, err
		case <-tick.C:
		}
	}
}
