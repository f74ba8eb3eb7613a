package main

import (
	"github.com/slackerd/slacker/activity"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/latency"
)

// activityOf writes the table's counts as the API's answer.
func activityOf(table *activity.Table) *slackerv1.Activity {
	snapshot := table.Snapshot(maxVolumeSeries)
	out := &slackerv1.Activity{}
	for _, b := range latency.Bounds {
		out.BoundsNanos = append(out.BoundsNanos, uint64(b))
	}
	for i := range snapshot.Rows {
		r := &snapshot.Rows[i]
		t := &slackerv1.TargetActivity{Target: r.Target, Connections: uint32(r.Connections), InFlight: r.InFlight} //nolint:gosec // bounded by nbd.max_connections
		for cmd, name := range activity.Commands {
			if c := &r.Totals[cmd]; c.Took.Count() > 0 {
				t.Commands = append(t.Commands, &slackerv1.CommandActivity{Command: name, Done: c.Took.Count(), Failed: c.Failed(),
					Bytes: c.Bytes, Buckets: append([]uint64(nil), c.Took.Buckets[:]...)})
			}
		}
		out.Targets = append(out.Targets, t)
	}
	return out
}
