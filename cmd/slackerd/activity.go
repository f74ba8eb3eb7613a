package main

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/slackerd/slacker/activity"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/latency"
)

// maxConnectionRows bounds the connections that an answer lists one by one.
const maxConnectionRows = 1000

// activityOf writes the table's counts as the API's answer.
func activityOf(table *activity.Table, byConnection bool) *slackerv1.Activity {
	out := &slackerv1.Activity{}
	for _, b := range latency.Bounds {
		out.BoundsNanos = append(out.BoundsNanos, uint64(b))
	}
	if !byConnection {
		snapshot := table.Snapshot(maxVolumeSeries)
		for i := range snapshot.Rows {
			out.Targets = append(out.Targets, rowOf(&snapshot.Rows[i]))
		}
		return out
	}
	rows, other := table.Connections(maxConnectionRows)
	for i := range rows {
		r := &rows[i]
		t := rowOf(&r.Row)
		t.Connection = &slackerv1.ActiveConnection{Id: r.Conn.ID, Remote: r.Conn.Remote, Identity: r.Conn.Identity.String(),
			Worker: r.Who.Worker, Attachment: r.Who.Attachment, Opened: timestamppb.New(r.Opened)}
		out.Targets = append(out.Targets, t)
	}
	if other.Connections > 0 {
		out.Targets = append(out.Targets, rowOf(&other))
	}
	return out
}

func rowOf(r *activity.Row) *slackerv1.TargetActivity {
	t := &slackerv1.TargetActivity{Target: r.Target, Connections: uint32(r.Connections), InFlight: r.InFlight} //nolint:gosec // bounded by nbd.max_connections
	for cmd, name := range activity.Commands {
		if c := &r.Totals[cmd]; c.Took.Count() > 0 {
			t.Commands = append(t.Commands, &slackerv1.CommandActivity{Command: name, Done: c.Took.Count(), Failed: c.Failed(),
				Bytes: c.Bytes, Buckets: append([]uint64(nil), c.Took.Buckets[:]...)})
		}
	}
	return t
}
