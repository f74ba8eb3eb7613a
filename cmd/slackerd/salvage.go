package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/volume"
	"github.com/spf13/cobra"
)

func newSalvage() *cobra.Command {
	var dryRun, asJSON bool
	cmd := &cobra.Command{
		Use: "salvage", Short: "Rebuild the lost extent map of a store", Args: noArgs,
		Long: "Salvage makes a new extent map for a store that has lost its own (the directory map), from the segments and from\n" +
			"the journal of the catalog (the directory catalog). There must be no map: move a damaged one away first. Nothing else\n" +
			"is changed, and the map gets its place only when it is whole. Afterwards run slackerd check --data.\n\n" +
			"What was flushed is all there. Of the catalog the last seconds may be missing if the machine went down too. Without the\n" +
			"journal, names and snapshots are lost: each layer becomes a volume with what was written to it alone. In a store that was\n" +
			"made by a version without the journal, blocks that were trimmed then may hold what they held before.\n" + exitHelp,
		Example: "  slackerd salvage --data-dir /var/lib/slacker --dry-run\n  mv /var/lib/slacker/map /root/map.damaged && slackerd salvage --data-dir /var/lib/slacker",
		RunE: onStore(func(ctx context.Context, cmd *cobra.Command, dir string) error {
			return salvageStore(ctx, dir, dryRun, asJSON, cmd.OutOrStdout(), cmd.ErrOrStderr())
		}),
	}
	addConfigFlags(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "Only say what there is; write nothing.")
	cmd.Flags().BoolVar(&asJSON, "json", false, "Print JSON.")
	return cmd
}

// salvageJSON is the stable form of a report for programs.
type salvageJSON struct {
	DryRun        bool     `json:"dry_run"`
	Journal       string   `json:"journal"`
	Volumes       int      `json:"volumes"`
	Snapshots     int      `json:"snapshots"`
	Layers        int      `json:"layers"`
	Segments      int      `json:"segments"`
	Records       uint64   `json:"records"`
	Blocks        uint64   `json:"blocks"`
	UnknownBlocks uint64   `json:"unknown_blocks"`
	Problems      []string `json:"problems"`
}

func salvageStore(ctx context.Context, dir string, dryRun, asJSON bool, out, progress io.Writer) error {
	last := -1
	r, err := volume.Salvage(ctx, volume.Options{Dir: dir}, dryRun, func(done, total uint64, unit string) {
		if percent := int(done * 100 / max(1, total)); percent/10 != last/10 || last < 0 {
			last = percent
			_, _ = fmt.Fprintf(progress, "%d of %d %s read\n", done, total, unit) // there is nowhere else to say so
		}
	})
	if err != nil {
		return err
	}
	j := salvageJSON{dryRun, r.Journal, r.Volumes, r.Snapshots, r.Layers, r.Segments, r.Records, r.Blocks, 0, append([]string{}, r.Problems...)}
	for _, n := range r.Strangers {
		j.UnknownBlocks += n
	}
	if err := printSalvage(out, &j, asJSON); err != nil {
		return block.Errorf(block.IO, "print: %w", err)
	}
	if len(r.Problems) > 0 {
		return block.Errorf(block.Corrupt, "salvage %s: %d problems", dir, len(r.Problems))
	}
	return nil
}

func printSalvage(out io.Writer, j *salvageJSON, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(j)
	}
	did := "rebuilt"
	if j.DryRun {
		did = "could rebuild"
	}
	_, err := fmt.Fprintf(out, "%s %d volumes and %d snapshots on %d layers, from %d records of %d segments, with %d blocks written\n",
		did, j.Volumes, j.Snapshots, j.Layers, j.Records, j.Segments, j.Blocks)
	if err == nil && j.UnknownBlocks > 0 {
		_, err = fmt.Fprintf(out, "left out: %d blocks of layers that the catalog does not have, as deleted ones\n", j.UnknownBlocks)
	}
	for _, p := range j.Problems {
		if err == nil {
			_, err = fmt.Fprintln(out, "problem: "+p)
		}
	}
	return err
}
