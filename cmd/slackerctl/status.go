package main

import (
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
)

func (a *app) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the server and the space of its store",
		Long: `status describes the server: its version, where it listens, what it holds, and the
space of its store. A store that takes no data says why.`,
		Example: `  slackerctl status
  slackerctl status --json`,
		Args:                  wantArgs(0, 0),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			resp, err := client.GetStatus(cmd.Context(), connect.NewRequest(&slackerv1.GetStatusRequest{}))
			if err != nil {
				return a.failed(cmd.Context(), err, "")
			}
			s := resp.Msg
			out := statusJSON{Server: a.server, Version: s.GetVersion(), DataDir: s.GetDataDir(), Started: stamp(s.GetStarted()),
				FormatVersion: s.GetFormatVersion(), NBDAddresses: list(s.GetNbdAddresses(), same), Volumes: s.GetVolumes(),
				Snapshots: s.GetSnapshots(), Attachments: s.GetAttachments(), Connections: s.GetConnections(),
				DataBytes: s.GetDataBytes(), SegmentBytes: s.GetSegmentBytes(), ReclaimableBytes: s.GetReclaimableBytes(),
				CapacityBytes: s.GetCapacityBytes(), FreeBytes: s.GetFreeBytes(),
				ReserveBytes: s.GetReserveBytes(), Short: s.GetShort(), ReadOnly: s.GetReadOnly(), Fault: s.GetFault()}
			return a.answer(out, func(w io.Writer) { a.statusText(w, s) })
		},
	}
}

func (a *app) statusText(w io.Writer, s *slackerv1.Status) {
	line(w, "server", a.server)
	line(w, "version", s.GetVersion()+fmt.Sprintf(", store format %d", s.GetFormatVersion()))
	line(w, "data", s.GetDataDir())
	line(w, "started", a.when(s.GetStarted()))
	line(w, "NBD", orDash(strings.Join(s.GetNbdAddresses(), ", ")))
	line(w, "volumes", fmt.Sprintf("%d, with %d snapshots", s.GetVolumes(), s.GetSnapshots()))
	line(w, "attachments", fmt.Sprintf("%d, with %d connections", s.GetAttachments(), s.GetConnections()))
	line(w, "live data", bytesText(s.GetDataBytes()))
	line(w, "on disk", fmt.Sprintf("%s, of which %s can be reclaimed", bytesText(s.GetSegmentBytes()), bytesText(s.GetReclaimableBytes())))
	capacity := "limited by the file system"
	if s.GetCapacityBytes() > 0 {
		capacity = "of " + bytesText(s.GetCapacityBytes())
	}
	line(w, "free", bytesText(s.GetFreeBytes())+", "+capacity+"; "+bytesText(s.GetReserveBytes())+" stay in reserve")
	if s.GetShort() {
		line(w, "NO SPACE", "data is refused until more than the reserve and a segment are free; deleting, trimming and gc work")
	}
	if s.GetReadOnly() {
		line(w, "FAULT", "the store takes no more writes: "+s.GetFault())
	}
}
