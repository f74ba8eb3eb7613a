package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"

	"github.com/slackerd/slacker/apiserver"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/volume"
	"github.com/spf13/cobra"
)

func newCheck() *cobra.Command {
	var data, asJSON bool
	cmd := &cobra.Command{
		Use: "check", Short: "Verify a store that no server has open", Args: noArgs,
		Long: "Check walks the store in the data directory and reports every damage it finds, one per line: what kind, where,\n" +
			"and which volumes and snapshots see it. It first replays the log, as the server does when it starts. For a\n" +
			"store that a server has open use slackerctl check.\n\n" +
			"It ends with status 8 when something is damaged.\n" + exitHelp,
		Example: "  slackerd check --data-dir /var/lib/slacker\n  slackerd check --data-dir /var/lib/slacker --data --json",
		RunE: onStore(func(ctx context.Context, cmd *cobra.Command, dir string) error {
			return checkOffline(ctx, dir, data, asJSON, cmd.OutOrStdout())
		}),
	}
	addConfigFlags(cmd)
	cmd.Flags().BoolVar(&data, "data", false, "Also read every live block and verify its checksum.")
	cmd.Flags().BoolVar(&asJSON, "json", false, "Print JSON: an array of {kind, object, detail, affected}.")
	return cmd
}

// onStore is the run of a command on the store of the configuration, which ends
// with SIGTERM and SIGINT.
func onStore(do func(ctx context.Context, cmd *cobra.Command, dir string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		l, err := loadConfig(cmd)
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		return do(ctx, cmd, l.Server.DataDir)
	}
}

func checkOffline(ctx context.Context, dir string, data, asJSON bool, out io.Writer) error {
	found, err := volume.CheckDir(ctx, volume.Options{Dir: dir}, data, nil)
	if err == nil {
		err = ctx.Err()
	}
	if block.Is(err, block.Busy) {
		return block.Errorf(block.Busy, "%w: use slackerctl check while a server runs", err)
	}
	if err != nil {
		return err
	}
	damages := toDamages(found)
	if err := printDamages(out, damages, asJSON); err != nil {
		return block.Errorf(block.IO, "print: %w", err)
	}
	if len(damages) > 0 {
		return block.Errorf(block.Corrupt, "check %s: %d damages", dir, len(damages))
	}
	return nil
}

// damageJSON is the stable form of a damage for programs.
type damageJSON struct {
	Kind     string   `json:"kind"`
	Object   string   `json:"object"`
	Detail   string   `json:"detail"`
	Affected []string `json:"affected"`
}

func printDamages(out io.Writer, damages []apiserver.Damage, asJSON bool) error {
	if asJSON {
		rows := make([]damageJSON, len(damages))
		for i, d := range damages {
			rows[i] = damageJSON(d)
			if rows[i].Affected == nil {
				rows[i].Affected = []string{}
			}
		}
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(rows)
	}
	if len(damages) == 0 {
		_, err := fmt.Fprintln(out, "no damage found")
		return err
	}
	for _, d := range damages {
		seen := ""
		if len(d.Affected) > 0 {
			seen = " (seen by " + strings.Join(d.Affected, ", ") + ")"
		}
		if _, err := fmt.Fprintf(out, "%s: %s: %s%s\n", d.Kind, d.Object, d.Detail, seen); err != nil {
			return err
		}
	}
	return nil
}
