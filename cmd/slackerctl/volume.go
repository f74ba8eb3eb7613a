package main

import (
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
)

func (a *app) volume() *cobra.Command {
	return a.noun(&cobra.Command{
		Use:   "volume",
		Short: "Make, list, change and delete volumes",
		Long: `volume makes, lists, changes and deletes volumes: writable, named block devices.
A name has parts of letters, digits, '.', '_' and '-', joined by '/'.`,
		Example: `  slackerctl volume create web --size 10GiB
  slackerctl volume list`,
	}, a.volumeCreate(), a.volumeList(), a.volumeShow(), a.volumeResize(), a.volumeRename(), a.volumeRm())
}

func (a *app) volumeCreate() *cobra.Command {
	var size string
	cmd := &cobra.Command{
		Use:   "create NAME --size SIZE",
		Short: "Make an empty volume",
		Long: `create makes an empty volume that reads as zeroes. It takes no space until it is
written. The size is a multiple of 4096 bytes: 10GiB counts in 1024s, 10GB in 1000s.`,
		Example: `  slackerctl volume create web --size 10GiB
  slackerctl volume create ci/runner-7 --size 1.5TiB`,
		Args:                  wantArgs(1, 1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := sizeFlag(cmd, size)
			if err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			resp, err := client.CreateVolume(cmd.Context(), connect.NewRequest(&slackerv1.CreateVolumeRequest{Name: args[0], SizeBytes: n}))
			if err != nil {
				return a.failed(cmd.Context(), err, "")
			}
			return a.done(toVolume(resp.Msg), "volume %s made, %s", resp.Msg.GetName(), bytesText(resp.Msg.GetSizeBytes()))
		},
	}
	cmd.Flags().StringVar(&size, "size", "", "`SIZE` of the volume, for example 10GiB (required)")
	return cmd
}

// sizeFlag reads a size that has to be given.
func sizeFlag(cmd *cobra.Command, size string) (uint64, error) {
	if size == "" {
		return 0, block.Errorf(block.Invalid, "%s: no size given: want --size SIZE, for example --size 10GiB", cmd.CommandPath())
	}
	return parseSize(cmd.CommandPath(), size)
}

func (a *app) volumeList() *cobra.Command {
	return &cobra.Command{
		Use:   "list [PREFIX]",
		Short: "List volumes",
		Long: `list lists the volumes, or those whose names begin with PREFIX. WRITTEN is what
has been written since the last snapshot or clone.`,
		Example: `  slackerctl volume list
  slackerctl volume list ci/ --json`,
		Args:                  wantArgs(0, 1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			req := &slackerv1.ListVolumesRequest{Prefix: strings.Join(args, "")}
			resp, err := client.ListVolumes(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return a.failed(cmd.Context(), err, "")
			}
			volumes := resp.Msg.GetVolumes()
			out := struct {
				Volumes []volumeJSON `json:"volumes"`
			}{list(volumes, toVolume)}
			return a.answer(out, func(w io.Writer) {
				line(w, "NAME", "SIZE", "WRITTEN", "SNAPSHOTS", "ORIGIN", "USED BY", "CREATED")
				for _, v := range volumes {
					line(w, v.GetName(), bytesText(v.GetSizeBytes()), bytesText(v.GetHeadBytes()), fmt.Sprint(v.GetSnapshots()),
						orDash(v.GetOrigin()), orDash(v.GetAttachment().GetWorker()), a.when(v.GetCreated()))
				}
			})
		},
		ValidArgsFunction: a.completeTarget(true, false),
	}
}

func (a *app) volumeShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show a volume, its space and its snapshots",
		Long: `show describes a volume: its space, exact to the block (exclusive is what nothing
else holds, shared what other volumes or snapshots hold too), the worker that uses
it, and its snapshots.`,
		Example:               `  slackerctl volume show web`,
		Args:                  wantArgs(1, 1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			req := &slackerv1.GetVolumeRequest{Name: args[0], WithSpace: true}
			resp, err := client.GetVolume(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return a.failed(cmd.Context(), err, args[0])
			}
			out := struct {
				volumeJSON
				Space spaceJSON      `json:"space"`
				Snaps []snapshotJSON `json:"snapshots"`
			}{toVolume(resp.Msg.GetVolume()), toSpace(resp.Msg.GetSpace()), list(resp.Msg.GetSnapshots(), toSnapshot)}
			return a.answer(out, func(w io.Writer) { a.volumeText(w, resp.Msg) })
		},
		ValidArgsFunction: a.completeTarget(true, false),
	}
}

func (a *app) volumeText(w io.Writer, r *slackerv1.GetVolumeResponse) {
	v := r.GetVolume()
	line(w, "name", v.GetName())
	line(w, "id", fmt.Sprint(v.GetId()))
	line(w, "size", bytesText(v.GetSizeBytes()))
	line(w, "created", a.when(v.GetCreated()))
	line(w, "origin", orDash(v.GetOrigin()))
	line(w, "written", bytesText(v.GetHeadBytes())+" since the last snapshot or clone")
	spaceText(w, r.GetSpace())
	if at := v.GetAttachment(); at != nil {
		line(w, "used by", fmt.Sprintf("%s, attachment %s, %d connections", at.GetWorker(), at.GetId(), at.GetConnections()))
	} else {
		line(w, "used by", "-")
	}
	if len(r.GetSnapshots()) == 0 {
		line(w, "snapshots", "-")
		return
	}
	line(w, "snapshots", "")
	for _, s := range r.GetSnapshots() {
		line(w, "  "+snapshotName(s), bytesText(s.GetLayerBytes()), a.when(s.GetCreated()))
	}
}

func spaceText(w io.Writer, s *slackerv1.Space) {
	line(w, "allocated", fmt.Sprintf("%s: %s exclusive, %s shared", bytesText(s.GetLogicalBytes()),
		bytesText(s.GetExclusiveBytes()), bytesText(s.GetSharedBytes())))
	line(w, "would free", bytesText(s.GetWouldFreeBytes())+" if deleted alone")
}

func (a *app) volumeResize() *cobra.Command {
	var size string
	cmd := &cobra.Command{
		Use:   "resize NAME --size SIZE",
		Short: "Grow a volume",
		Long: `resize grows a volume; the new part reads as zeroes. A volume does not shrink. The
file system in it has to be grown by the worker, with resize2fs for example.`,
		Example:               `  slackerctl volume resize web --size 20GiB`,
		Args:                  wantArgs(1, 1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := sizeFlag(cmd, size)
			if err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			resp, err := client.ResizeVolume(cmd.Context(), connect.NewRequest(&slackerv1.ResizeVolumeRequest{Name: args[0], SizeBytes: n}))
			if err != nil {
				return a.failed(cmd.Context(), err, args[0])
			}
			return a.done(toVolume(resp.Msg), "volume %s resized to %s", resp.Msg.GetName(), bytesText(resp.Msg.GetSizeBytes()))
		},
		ValidArgsFunction: a.completeTarget(true, false),
	}
	cmd.Flags().StringVar(&size, "size", "", "new `SIZE`, for example 20GiB (required)")
	return cmd
}

func (a *app) volumeRename() *cobra.Command {
	return &cobra.Command{
		Use:   "rename NAME NEW-NAME",
		Short: "Rename a volume",
		Long: `rename gives a volume another name. Its snapshots go with it; nothing else about
it changes.`,
		Example:               `  slackerctl volume rename web web-old`,
		Args:                  wantArgs(2, 2),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			resp, err := client.RenameVolume(cmd.Context(), connect.NewRequest(&slackerv1.RenameVolumeRequest{Name: args[0], NewName: args[1]}))
			if err != nil {
				return a.failed(cmd.Context(), err, args[0])
			}
			return a.done(toVolume(resp.Msg), "volume %s renamed to %s", args[0], resp.Msg.GetName())
		},
		ValidArgsFunction: a.completeTarget(true, false),
	}
}

func (a *app) volumeRm() *cobra.Command {
	var withSnapshots, dryRun bool
	cmd := &cobra.Command{
		Use:   "rm NAME [--with-snapshots] [--dry-run]",
		Short: "Delete a volume",
		Long: `rm deletes a volume. One that has snapshots is refused without --with-snapshots,
one in use always. Clones of its snapshots are not touched. Space that nothing else
holds comes back in the background.`,
		Example: `  slackerctl volume rm web --dry-run
  slackerctl volume rm web --with-snapshots`,
		Args:                  wantArgs(1, 1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			req := &slackerv1.DeleteVolumeRequest{Name: args[0], WithSnapshots: withSnapshots, DryRun: dryRun}
			resp, err := client.DeleteVolume(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return a.failed(cmd.Context(), err, args[0])
			}
			return a.deleted(resp.Msg, dryRun)
		},
		ValidArgsFunction: a.completeTarget(true, false),
	}
	cmd.Flags().BoolVar(&withSnapshots, "with-snapshots", false, "delete its snapshots too")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be deleted and freed")
	return cmd
}

// deleted answers what a delete did or would do.
func (a *app) deleted(r *slackerv1.DeleteResponse, dryRun bool) error {
	out := deletedJSON{DryRun: dryRun, Deleted: list(r.GetDeleted(), same)}
	names := strings.Join(r.GetDeleted(), ", ")
	if !dryRun {
		return a.done(out, "deleted %s", names)
	}
	out.WouldFreeBytes = r.GetWouldFreeBytes()
	return a.answer(out, func(w io.Writer) {
		line(w, fmt.Sprintf("would delete %s and free %s", names, bytesText(r.GetWouldFreeBytes())))
	})
}
