package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/image"
)

// imageExportFlags are those of image export.
type imageExportFlags struct {
	format, nbd, config string
	force               bool
	layers              image.LayersOptions
}

func (a *app) imageExport() *cobra.Command {
	var f imageExportFlags
	cmd := &cobra.Command{
		Use:   "export VOLUME[@SNAPSHOT] DEST [flags]",
		Short: "Export a snapshot or volume as a disk image, or snapshots as a container image",
		Long: `export writes a snapshot to a file, or, with --format oci or to docker://HOST/NAME:TAG,
makes an ordinary container image of its files, in a directory (an OCI layout) or in
a registry. What is made appears when it is complete; a file or directory that is there
already is replaced only with --force. Exporting a volume that is written meanwhile
gives no one moment of it: make a snapshot first.

A container image has one layer, or with --below one for each snapshot: of what changed
since the one below it. With --on the layers and the configuration of an image are used
as they are, and one layer is added: --below is the snapshot that holds what that image
does. Making container images needs root, and room for the data in --temp-dir.`,
		Example: `  slackerctl image export debian@v1 debian.raw
  slackerctl image export debian@v1 debian.qcow2 --format qcow2
  slackerctl image export web@v2 layout/ --format oci --below debian@v1 --below web@v1
  slackerctl image export web@v2 docker://localhost:5000/web:2 --on docker://localhost:5000/web:1 --below web@v1`,
		Args:                  wantArgs(2, 2),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.export(cmd, &f, args[0], args[1])
		},
		ValidArgsFunction: a.completeTarget(true, true),
	}
	formats := append(image.ExportFormats(), image.FormatOCI)
	flags := cmd.Flags()
	flags.StringVar(&f.format, "format", image.FormatAuto, "`FORMAT` of what is made: "+strings.Join(formats, ", ")+" (default: raw, in a registry oci)")
	flags.BoolVar(&f.force, "force", false, "replace what is there")
	flags.StringVar(&f.nbd, "nbd", "", "NBD `address` of the server (default: the first that it states)")
	flags.StringArrayVar(&f.layers.Below, "below", nil, "a `SNAPSHOT` to make a layer of, below that of the source; lowest first")
	flags.StringVar(&f.layers.Base, "on", "", "an `IMAGE` whose layers and configuration are used: an OCI layout or docker://HOST/NAME:TAG")
	flags.StringVar(&f.config, "config", "", "a JSON `FILE` with the configuration of the image, as import prints it")
	flags.StringVar(&f.layers.Tag, "tag", "", "the `NAME` of the image in an OCI layout")
	flags.BoolVar(&f.layers.PlainHTTP, "plain-http", false, "speak to the registry without TLS; on loopback this is the default")
	flags.StringVar(&f.layers.TempDir, "temp-dir", "", "`DIR` with room for the data of a container image (default: $TMPDIR or /tmp)")
	a.completeFlag(cmd, "format", formats)
	return cmd
}

// export exports as the flags say.
func (a *app) export(cmd *cobra.Command, f *imageExportFlags, source, dest string) error {
	layered := f.format == image.FormatOCI || f.format == image.FormatAuto && strings.HasPrefix(dest, "docker://")
	if !layered {
		for _, name := range []string{"below", "on", "config", "tag", "plain-http", "temp-dir"} {
			if cmd.Flags().Changed(name) {
				return block.Errorf(block.Invalid, "--%s is for container images: want --format oci with it", name)
			}
		}
	}
	if f.config != "" {
		config, err := os.ReadFile(f.config)
		if err != nil {
			return block.Errorf(block.KindOfFile(err), "configuration: %w", err)
		}
		f.layers.Config = config
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	bar := a.newProgress()
	var res image.Result
	if layered {
		o := f.layers
		o.Source, o.Dest, o.Force, o.NBDAddr = source, dest, f.force, f.nbd
		o.Client, o.Progress, o.TLS = client, bar.bytes, a.secure()
		res, err = a.exportLayers(cmd.Context(), o)
	} else {
		res, err = a.exportImage(cmd.Context(), image.ExportOptions{Source: source, Dest: dest, Format: f.format, Force: f.force,
			NBDAddr: f.nbd, Client: client, Progress: bar.bytes, TLS: a.secure()})
	}
	bar.finish()
	if err != nil {
		return a.failed(cmd.Context(), err, source)
	}
	return a.imageDone(dest, res, fmt.Sprintf("exported %s to %s", source, dest))
}
