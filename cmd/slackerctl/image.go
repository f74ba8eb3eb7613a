package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slackerd/slacker/image"
	"github.com/slackerd/slacker/naming"
)

func (a *app) image() *cobra.Command {
	return a.noun(&cobra.Command{
		Use:   "image",
		Short: "Import, export, push and prune images",
		Long: `image imports disk images, archives, directories and container images as snapshots,
and exports snapshots and volumes as disk images, and snapshots as container images.`,
		Example: `  slackerctl image import debian.qcow2 debian@v1
  slackerctl image export debian@v1 debian.raw
  slackerctl image export debian@v1 docker://registry.example.org/debian:v1`,
	}, a.imageImport(), a.imageExport(), a.imagePush(), a.imagePrune(), a.imageWorkers())
}

func (a *app) imageImport() *cobra.Command {
	var o image.ImportOptions
	var size string
	var layers bool
	cmd := &cobra.Command{
		Use:   "import SOURCE VOLUME@SNAPSHOT [flags]\n  slackerctl image import SOURCE --layers [flags]",
		Short: "Import an image as a snapshot, or its layers for containerd",
		Long: `import makes a volume with one snapshot of a disk image (raw, qcow2), an archive or
a directory (into a fresh ext4), or a container image (docker-archive, oci; its layers
are applied). SOURCE is a path, or - for standard input (raw and tar). The snapshot
appears when it is complete; when the import fails or is interrupted, nothing of it
stays.

With --layers a container image is brought for containerd's workers instead: each of
its layers becomes known to all, so that a pull of the image downloads nothing but the
manifest and the configuration. That mounts volumes: it wants root, and the program
slacker-snapshotter, whose import it runs.`,
		Example: `  slackerctl image import debian.qcow2 debian@v1
  slackerctl image import rootfs.tar.xz debian@v2 --size 8GiB
  slackerctl image import redis.tar redis@7 --format docker-archive
  slackerctl image import layout/ app@1 --format oci --image app:1.0
  slackerctl image import layout/ --layers`,
		Args: func(cmd *cobra.Command, args []string) error {
			if layers {
				return wantArgs(1, 1)(cmd, args)
			}
			return wantArgs(2, 2)(cmd, args)
		},
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if layers {
				return a.importLayers(cmd, args[0])
			}
			o.Source, o.Target = args[0], args[1]
			if cmd.Flags().Changed("size") {
				n, err := sizeFlag(cmd, size)
				if err != nil {
					return err
				}
				o.SizeBytes = n
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			bar := a.newProgress()
			o.Client, o.Progress, o.TLS = client, bar.bytes, a.secure()
			res, err := a.importImage(cmd.Context(), o)
			bar.finish()
			if err != nil {
				return a.failed(cmd.Context(), err, "")
			}
			return a.imageDone(o.Target, res, fmt.Sprintf("imported %s as %s", o.Source, o.Target))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Format, "format", image.FormatAuto, "`FORMAT` of the source: "+strings.Join(image.Formats(), ", "))
	flags.StringVar(&size, "size", "", "`SIZE` of the volume (default: that of the disk image, or room for the files)")
	flags.StringVar(&o.Image, "image", "", "which image of an archive with several: a tag, `REF` or digest")
	flags.StringVar(&o.Platform, "platform", "", "`OS/ARCH` of a multi-platform image (default: linux, this machine's)")
	flags.StringVar(&o.NBDAddr, "nbd", "", "NBD `address` of the server (default: the first that it states)")
	flags.StringVar(&o.TempDir, "temp-dir", "", "`DIR` with room for about twice the content (default: $TMPDIR or /tmp)")
	flags.BoolVar(&layers, "layers", false, "bring the layers, for workers with slacker-snapshotter")
	flags.String("prefix", string(naming.DefaultPrefix), "with --layers: what the names of the snapshotter's volumes begin with")
	a.completeFlag(cmd, "format", image.Formats())
	return cmd
}

// prefixFlag lets the user say how the names of the snapshotter's volumes begin.
func prefixFlag(flags *pflag.FlagSet, p *naming.Prefix) {
	flags.StringVar((*string)(p), "prefix", string(naming.DefaultPrefix), "what the names of the snapshotter's volumes begin with")
}

// imageDone answers what an import or export did. Warnings are for people, on
// standard error; in JSON they are part of the answer.
func (a *app) imageDone(target string, r image.Result, what string) error {
	out := imageJSON{Target: target, Format: r.Format, SizeBytes: r.SizeBytes, SourceBytes: r.SourceBytes,
		WrittenBytes: r.WrittenBytes, PaddedBytes: r.PaddedBytes, Files: r.Files, Image: r.Image,
		Warnings: list(r.Warnings, same), TookSeconds: r.Took.Seconds()}
	if json.Valid(r.Config) {
		out.Config = r.Config
	}
	if !a.json {
		for _, warning := range r.Warnings {
			line(a.stderr, "slackerctl: warning: "+warning)
		}
	}
	if a.quiet && !a.json {
		return nil
	}
	return a.answer(out, func(w io.Writer) {
		line(w, fmt.Sprintf("%s: %s, %s, %s of data in %s", what, r.Format, bytesText(r.SizeBytes),
			bytesText(r.WrittenBytes), r.Took.Round(time.Millisecond)))
		if r.PaddedBytes > 0 {
			line(w, fmt.Sprintf("%d zero bytes were added to fill the last block", r.PaddedBytes))
		}
	})
}
