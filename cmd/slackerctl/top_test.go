package main

import (
	"math"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
)

// bounds of the tests: 1 ms, 10 ms, 100 ms and one bucket without an end.
var topBounds = []uint64{1e6, 1e7, 1e8}

func activityAt(seconds int, targets ...*slackerv1.TargetActivity) *slackerv1.Activity {
	return &slackerv1.Activity{Time: timestamppb.New(epoch.Add(time.Duration(seconds) * time.Second)), BoundsNanos: topBounds, Targets: targets}
}

func counted(target, command string, failed, bytes uint64, buckets ...uint64) *slackerv1.TargetActivity {
	c := &slackerv1.CommandActivity{Command: command, Failed: failed, Bytes: bytes, Buckets: buckets}
	for _, n := range buckets {
		c.Done += n
	}
	return &slackerv1.TargetActivity{Target: target, Connections: 1, Commands: []*slackerv1.CommandActivity{c}}
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*max(1, math.Abs(b)) }

// TestTopIsTheDifference: of counts that grew only the growth counts, of those
// that began anew or are new all.
func TestTopIsTheDifference(t *testing.T) {
	before := activityAt(0, counted("grew", "read", 1, 1000, 100, 0, 0, 0), counted("anew", "read", 0, 9000, 90, 0, 0, 0), counted("left", "read", 0, 1, 1, 0, 0, 0))
	after := activityAt(2, counted("grew", "read", 5, 5000, 100, 40, 0, 0), counted("anew", "read", 0, 200, 0, 20, 0, 0), counted("new", "write", 0, 600, 6, 0, 0, 0))
	got := topOf(before, after, byVolume, "traffic", 0)
	if got.Seconds != 2 || len(got.Volumes) != 3 {
		t.Fatalf("%+v", got)
	}
	grew, fresh, anew := got.Volumes[0], got.Volumes[1], got.Volumes[2]
	if grew.Target != "grew" || fresh.Target != "new" || anew.Target != "anew" {
		t.Fatalf("not by traffic: %+v", got.Volumes)
	}
	if !near(grew.Read.OpsPerSecond, 20) || !near(grew.Read.BytesPerSecond, 2000) || !near(grew.ErrorsPerSecond, 2) {
		t.Errorf("grew: %+v", grew)
	}
	// Only the 40 between 1 and 10 ms are of the interval.
	if !near(grew.Read.P50, 0.0055) || !near(grew.Read.P99, 0.00991) {
		t.Errorf("grew: p50 %v, p99 %v", grew.Read.P50, grew.Read.P99)
	}
	if !near(anew.Read.OpsPerSecond, 10) || !near(anew.Read.BytesPerSecond, 100) || !near(fresh.Write.OpsPerSecond, 3) || fresh.Read.P50 != 0 {
		t.Errorf("anew %+v, new %+v", anew, fresh)
	}
	if byName := topOf(before, after, byVolume, "name", 2); len(byName.Volumes) != 2 || byName.Volumes[0].Target != "anew" {
		t.Errorf("by name: %+v", byName.Volumes)
	}
	if twice := topOf(after, after, byVolume, "ops", 0); twice.Volumes[0].Read.OpsPerSecond != 0 {
		t.Errorf("rates of no time: %+v", twice)
	}
}

func TestPercentile(t *testing.T) {
	for _, c := range []struct {
		buckets []uint64
		part    float64
		want    float64
	}{
		{nil, 0.5, 0}, {[]uint64{0, 0, 0, 0}, 0.5, 0},
		{[]uint64{10, 0, 0, 0}, 0.5, 0.0005},
		{[]uint64{50, 50, 0, 0}, 0.5, 0.001},
		{[]uint64{98, 0, 2, 0}, 0.99, 0.055},
		{[]uint64{1, 0, 0, 99}, 0.99, 0.1}, // without an end: the last end
	} {
		if got := percentile(topBounds, c.buckets, c.part); !near(got, c.want) {
			t.Errorf("percentile %v of %v: %v, want %v", c.part, c.buckets, got, c.want)
		}
	}
}

// TestTopSumsOtherCommands: what has no column of its own is in one, and its
// errors count.
func TestTopSumsOtherCommands(t *testing.T) {
	after := counted("v", "trim", 1, 100, 1, 1, 0, 0)
	after.Commands = append(after.Commands, counted("v", "write_zeroes", 2, 50, 0, 2, 0, 0).Commands...)
	v := topVolume(nil, after, topBounds, 1)
	if v.Other.OpsPerSecond != 4 || v.Other.BytesPerSecond != 150 || v.ErrorsPerSecond != 3 || v.Flush.OpsPerSecond != 0 {
		t.Errorf("%+v", v)
	}
}
