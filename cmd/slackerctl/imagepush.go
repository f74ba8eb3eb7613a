package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slackerd/slacker/image"
)

func (a *app) imagePush() *cobra.Command {
	var o image.PushOptions
	cmd := &cobra.Command{
		Use:   "push VOLUME docker://HOST/NAME:TAG --on docker://HOST/NAME:TAG [flags]",
		Short: "Push a container's volume as an image, without moving its data",
		Long: `push makes an image of the volume that a container runs on with slacker-snapshotter,
also while it runs: a snapshot under the name that the snapshotter of every other
worker looks for, and in the registry a manifest with one more layer of a few bytes.
--on is the image that the container was made from. Workers without this server
refuse to unpack that layer; for them there is image export.

With --freeze the file system, mounted at DIR on this host, is frozen for the moment
of the snapshot. Without it, what the container has not synced may be missing.`,
		Example:               "  slackerctl image push containers/work/w1/4f2a-c81d docker://registry.example.org/web:2 --on docker://registry.example.org/web:1 --freeze /var/lib/slacker-snapshotter/mnt/4f2a-c81d",
		Args:                  wantArgs(2, 2),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Volume, o.Dest = args[0], args[1]
			client, err := a.client()
			if err != nil {
				return err
			}
			o.Client = client
			res, err := image.Push(cmd.Context(), o)
			if err != nil {
				return a.failed(cmd.Context(), err, o.Volume)
			}
			return a.imageDone(o.Dest, res, fmt.Sprintf("pushed %s to %s", o.Volume, o.Dest))
		},
		ValidArgsFunction: a.completeTarget(true, false),
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Base, "on", "", "the `IMAGE` that the container was made from, docker://HOST/NAME:TAG")
	flags.StringVar(&o.Freeze, "freeze", "", "where the volume is mounted on this host, a `DIR`")
	prefixFlag(flags, &o.Prefix)
	flags.BoolVar(&o.PlainHTTP, "plain-http", false, "speak to the registry without TLS; on loopback this is the default")
	return cmd
}
