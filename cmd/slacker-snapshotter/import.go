package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/image"
	"github.com/slackerd/slacker/snapshotter"
)

func importCommand(f *flags) *cobra.Command {
	var o image.UnpackOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "import SOURCE",
		Short: "make the layers of an image known to all workers",
		Long: `import unpacks the layers of a container image (docker-archive, or an OCI layout in
a directory or tar file), as the first worker that pulls it would. Any worker that
pulls the image after that downloads the manifest and the configuration only. Layers
that the server has already are left as they are. The daemon need not run; several
imports, and pulls, may go on at once.`,
		Example: "  skopeo copy docker://redis:7 oci:redis && slacker-snapshotter import redis\n  slacker-snapshotter import app.tar --image app:1.0",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return block.Errorf(block.Invalid, "import takes 1 argument, SOURCE, got %d", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Source = args[0]
			return f.importImage(cmd, o, asJSON)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&o.Format, "format", image.FormatAuto, "docker-archive or oci (default: found out)")
	fl.StringVar(&o.Image, "image", "", "which image of an archive with several: a tag, reference or digest")
	fl.StringVar(&o.Platform, "platform", "", "`OS/ARCH` of a multi-platform image (default: linux, this machine's)")
	fl.BoolVar(&asJSON, "json", false, "print JSON, a line for each layer")
	return cmd
}

// importImage works with a snapshotter of its own, in a directory that goes.
func (f *flags) importImage(cmd *cobra.Command, o image.UnpackOptions, asJSON bool) (err error) {
	layers, err := image.OpenLayers(cmd.Context(), o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, layers.Close()) }()
	if w := layers.Warning(); w != "" {
		cmd.PrintErrln("warning:", w)
	}
	dir, err := os.MkdirTemp("", "slacker-import-")
	if err != nil {
		return block.Errorf(block.IO, "make a directory: %w", err)
	}
	f.root, f.stateDir, f.spares, f.publish = dir, filepath.Join(dir, "attached"), 0, true
	so, err := f.options(zap.NewNop())
	if err != nil {
		return err
	}
	so.Beat = 0 // nothing of it stays
	s, err := snapshotter.New(so)
	if err != nil {
		return err
	}
	defer func() {
		// Without the interrupt that may have ended the import.
		err = errors.Join(err, s.Drain(context.WithoutCancel(cmd.Context())), s.Close())
		if err == nil {
			err = os.RemoveAll(dir)
		}
	}()
	return s.Import(cmd.Context(), layers, func(i snapshotter.Imported) { printImported(cmd, i, asJSON) })
}

func printImported(cmd *cobra.Command, i snapshotter.Imported, asJSON bool) {
	if asJSON {
		_ = json.NewEncoder(cmd.OutOrStdout()).Encode(i) // a closed pipe ends the program anyway
		return
	}
	for _, w := range i.Warnings {
		cmd.PrintErrln("warning:", w)
	}
	what := "unpacked"
	if i.Existed {
		what = "was there"
	}
	_, _ = cmd.OutOrStdout().Write([]byte(i.Chain + "  " + what + ", " + humanize.IBytes(uint64(max(i.Bytes, 0))) + "\n"))
}
