package main

import (
	"fmt"
	"io"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
)

func (a *app) attachment() *cobra.Command {
	return a.noun(&cobra.Command{
		Use:   "attachment",
		Short: "List and end the use of volumes by workers",
		Long: `attachment lists which workers use which volumes and snapshots, and ends such a use
from the server's side. Workers attach and detach with slacker-client.`,
		Example: `  slackerctl attachment list
  slackerctl attachment detach 4f2a`,
	}, a.attachmentList(), a.attachmentDetach())
}

func (a *app) attachmentList() *cobra.Command {
	var target, worker string
	cmd := &cobra.Command{
		Use:   "list [--target TARGET] [--worker WORKER]",
		Short: "List attachments",
		Long:  `list lists the attachments, or those of a volume or snapshot, or of a worker.`,
		Example: `  slackerctl attachment list
  slackerctl attachment list --worker node-3 --json`,
		Args:                  wantArgs(0, 0),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			req := &slackerv1.ListAttachmentsRequest{Target: target, Worker: worker}
			resp, err := client.ListAttachments(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return a.failed(cmd.Context(), err, target)
			}
			attachments := resp.Msg.GetAttachments()
			out := struct {
				Attachments []attachmentJSON `json:"attachments"`
			}{list(attachments, toAttachment)}
			return a.answer(out, func(w io.Writer) {
				line(w, "ID", "TARGET", "WORKER", "MODE", "CONNECTIONS", "SINCE")
				for _, at := range attachments {
					mode := "read-write"
					if at.GetReadOnly() {
						mode = "read-only"
					}
					line(w, at.GetId(), at.GetTarget(), at.GetWorker(), mode, fmt.Sprint(at.GetConnections()), a.when(at.GetCreated()))
				}
			})
		},
	}
	cmd.Flags().StringVar(&target, "target", "", "only those of this `VOLUME` or VOLUME@SNAPSHOT")
	cmd.Flags().StringVar(&worker, "worker", "", "only those of this `WORKER`")
	return cmd
}

func (a *app) attachmentDetach() *cobra.Command {
	return &cobra.Command{
		Use:   "detach ID",
		Short: "End an attachment",
		Long: `detach ends an attachment: its connections are closed and writes of it no longer
land. The worker sees I/O errors. It is for workers that are gone; one that lives
detaches with slacker-client, which flushes first.`,
		Example:               `  slackerctl attachment detach 4f2a`,
		Args:                  wantArgs(1, 1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			if _, err := client.Detach(cmd.Context(), connect.NewRequest(&slackerv1.DetachRequest{AttachmentId: args[0]})); err != nil {
				return a.failed(cmd.Context(), err, "")
			}
			out := struct {
				ID string `json:"detached"`
			}{args[0]}
			return a.done(out, "attachment %s ended", args[0])
		},
	}
}
