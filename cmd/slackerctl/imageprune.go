package main

import (
	"fmt"
	"io"
	"path"
	"time"

	"github.com/spf13/cobra"

	"github.com/slackerd/slacker/image"
)

// defaultUnused is how long a chain waits for somebody to use it.
const defaultUnused = 30 * 24 * time.Hour

func (a *app) imagePrune() *cobra.Command {
	o := image.PruneOptions{}
	cmd := &cobra.Command{
		Use:   "prune [--unused DURATION] [--dry-run] [--prefix PREFIX]",
		Short: "Delete the layers of container images that no worker has",
		Long: `prune deletes the layers (PREFIX/chains/...) that workers with slacker-snapshotter
have unpacked and that nobody has had for a time: no worker has an image with them,
no container runs on them, no volume is a clone of them. A worker that begins to use
one at the same moment keeps it, or unpacks it anew. What was brought by image import
or push counts as used at that moment.`,
		Example: `  slackerctl image prune --dry-run
  slackerctl image prune --unused 168h`,
		Args:                  wantArgs(0, 0),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			bar := a.newProgress()
			o.Client, o.Progress = client, func(done, total int) { bar.update("prune", uint64(done), uint64(total), "layers") } //nolint:gosec // counts
			res, err := image.Prune(cmd.Context(), o)
			bar.finish()
			if err != nil {
				return a.failed(cmd.Context(), err, "")
			}
			return a.pruned(res, o.DryRun)
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&o.Unused, "unused", defaultUnused, "for how long nobody must have had a layer, for example 168h")
	flags.BoolVar(&o.DryRun, "dry-run", false, "only say what would go, and what that would free")
	prefixFlag(flags, &o.Prefix)
	return cmd
}

type prunedJSON struct {
	DryRun     bool              `json:"dry_run"`
	Chains     []prunedChainJSON `json:"chains"`
	FreedBytes uint64            `json:"freed_bytes"`
	InUse      int               `json:"in_use"`
	Recent     int               `json:"recent"`
}

type prunedChainJSON struct {
	Volume     string `json:"volume"`
	LastUsed   string `json:"last_used"`
	FreedBytes uint64 `json:"freed_bytes"` // 0 if dry_run
}

// pruned answers what a prune did or would do.
func (a *app) pruned(r image.PruneResult, dryRun bool) error {
	out := prunedJSON{DryRun: dryRun, FreedBytes: r.FreedBytes, InUse: r.InUse, Recent: r.Recent,
		Chains: list(r.Chains, func(c image.PrunedChain) prunedChainJSON {
			return prunedChainJSON{c.Volume, c.LastUsed.UTC().Format(time.RFC3339), c.FreedBytes}
		})}
	if a.quiet && !a.json {
		return nil
	}
	what := "deleted %d layers, freed %s; %d are in use, %d were used lately"
	if dryRun {
		what = "would delete %d layers and free %s; %d are in use, %d were used lately"
	}
	return a.answer(out, func(w io.Writer) {
		for _, c := range r.Chains {
			cells := []string{path.Base(c.Volume), "last used " + c.LastUsed.UTC().Format(time.RFC3339)}
			if !dryRun {
				cells = append(cells, bytesText(c.FreedBytes))
			}
			line(w, cells...)
		}
		line(w, fmt.Sprintf(what, len(r.Chains), bytesText(r.FreedBytes), r.InUse, r.Recent))
	})
}
