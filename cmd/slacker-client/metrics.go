package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/slackerd/slacker/block"
)

func metricsCommand(f *flags) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "metrics [--textfile FILE]",
		Short: "print what attachments do, for Prometheus",
		Long: `metrics prints what the attachments of this host do, in Prometheus' text format:
operations, bytes and times, with the fuse driver also errors, connections, and what
its cache did. The figures are at most about a second old. It asks no server, so
that it also works while that is away.

With --textfile it replaces FILE in one step, for the textfile collector of
node_exporter: run it every minute or so, from a timer.`,
		Example: "  slacker-client metrics\n  slacker-client metrics --textfile /var/lib/prometheus/node-exporter/slacker.prom",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			w, err := f.open(cmd)
			if err != nil {
				return err
			}
			text, err := w.Metrics()
			if err != nil {
				return err
			}
			if file == "" {
				return print(cmd, "%s", text)
			}
			err = os.WriteFile(file+".tmp", text, 0o644)
			if err == nil {
				err = os.Rename(file+".tmp", file)
			}
			if err != nil {
				return block.Errorf(block.KindOfFile(err), "write metrics: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "textfile", "", "write to this `FILE`, whose name has to end in .prom for node_exporter")
	return cmd
}
