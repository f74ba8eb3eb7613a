package main

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
)

// What a line is about.
const (
	byVolume     = "volume"
	byConnection = "connection"
)

// topJSON is one interval. It has volumes or connections, as asked for.
type topJSON struct {
	Time        string          `json:"time"` // its end, by the server's clock
	Seconds     float64         `json:"seconds"`
	Volumes     []topVolumeJSON `json:"volumes,omitzero"`
	Connections []topVolumeJSON `json:"connections,omitzero"`
}

func (t *topJSON) rows() []topVolumeJSON {
	return append(t.Volumes[:len(t.Volumes):len(t.Volumes)], t.Connections...)
}

// topConnectionJSON says which connection a row is about.
type topConnectionJSON struct {
	ID         uint64 `json:"id"`
	Remote     string `json:"remote"`
	Identity   string `json:"identity,omitempty"`
	Worker     string `json:"worker,omitempty"`
	Attachment string `json:"attachment,omitempty"`
	Opened     string `json:"opened"`
}

type topVolumeJSON struct {
	Target          string     `json:"target"` // VOLUME or VOLUME@SNAPSHOT
	Connections     uint32     `json:"connections"`
	InFlight        uint64     `json:"in_flight"`
	Read            topOpsJSON `json:"read"`
	Write           topOpsJSON `json:"write"`
	Flush           topOpsJSON `json:"flush"`
	Other           topOpsJSON `json:"other"` // trims, zeroes and all others
	ErrorsPerSecond float64    `json:"errors_per_second"`
	// Of a row that is one connection; the rest, over a limit, has none.
	Connection *topConnectionJSON `json:"connection,omitempty"`
}

// number is how the server calls a connection.
func (v *topVolumeJSON) number() string {
	if v.Connection == nil {
		return "-"
	}
	return strconv.FormatUint(v.Connection.ID, 10)
}

// peer is who is at the other end: the worker, and from where.
func (v *topVolumeJSON) peer() string {
	if v.Connection == nil {
		return "-"
	}
	return strings.Join(slices.DeleteFunc([]string{cmp.Or(v.Connection.Worker, v.Connection.Identity), v.Connection.Remote},
		func(s string) bool { return s == "" }), " ")
}

// key tells rows apart between two answers.
func keyOf(t *slackerv1.TargetActivity) string {
	if c := t.GetConnection(); c != nil {
		return strconv.FormatUint(c.GetId(), 10)
	}
	return t.GetTarget()
}

// topOpsJSON is about one kind of commands. The times are 0 when there was none.
type topOpsJSON struct {
	OpsPerSecond   float64 `json:"operations_per_second"`
	BytesPerSecond float64 `json:"bytes_per_second"`
	P50            float64 `json:"p50_seconds"`
	P99            float64 `json:"p99_seconds"`
}

// orders are the ways to sort: largest first.
var orders = []struct {
	name string
	by   func(v *topVolumeJSON) float64
}{
	{"traffic", func(v *topVolumeJSON) float64 { return v.Read.BytesPerSecond + v.Write.BytesPerSecond }},
	{"ops", func(v *topVolumeJSON) float64 {
		return v.Read.OpsPerSecond + v.Write.OpsPerSecond + v.Flush.OpsPerSecond + v.Other.OpsPerSecond
	}},
	{"read", func(v *topVolumeJSON) float64 { return v.Read.BytesPerSecond }},
	{"write", func(v *topVolumeJSON) float64 { return v.Write.BytesPerSecond }},
	{"flush", func(v *topVolumeJSON) float64 { return v.Flush.OpsPerSecond }},
	{"read-p99", func(v *topVolumeJSON) float64 { return v.Read.P99 }},
	{"write-p99", func(v *topVolumeJSON) float64 { return v.Write.P99 }},
	{"errors", func(v *topVolumeJSON) float64 { return v.ErrorsPerSecond }},
	{"name", func(*topVolumeJSON) float64 { return 0 }}, // names decide between equals
}

func orderNames() (names []string) {
	for _, o := range orders {
		names = append(names, o.name)
	}
	return names
}

func topOrderNames() string { return strings.Join(orderNames(), ", ") }

func topOrder(name string) (func(v *topVolumeJSON) float64, error) {
	for _, o := range orders {
		if o.name == name {
			return o.by, nil
		}
	}
	return nil, block.Errorf(block.Invalid, "top: sort by %q: want one of %s", name, topOrderNames())
}

// topOf makes rates of two answers of the server. What was not there before
// began in between.
func topOf(before, after *slackerv1.Activity, what, order string, limit int) topJSON {
	out := topJSON{Time: stamp(after.GetTime()), Seconds: after.GetTime().AsTime().Sub(before.GetTime().AsTime()).Seconds()}
	rows := []topVolumeJSON{}
	old := map[string]*slackerv1.TargetActivity{}
	for _, t := range before.GetTargets() {
		old[keyOf(t)] = t
	}
	for _, t := range after.GetTargets() {
		rows = append(rows, topVolume(old[keyOf(t)], t, after.GetBoundsNanos(), out.Seconds))
	}
	by, err := topOrder(order)
	slices.SortStableFunc(rows, func(x, y topVolumeJSON) int {
		if err != nil {
			return strings.Compare(x.Target, y.Target)
		}
		return cmp.Or(cmp.Compare(by(&y), by(&x)), strings.Compare(x.Target, y.Target))
	})
	if limit > 0 && len(rows) > limit {
		rows = rows[:limit]
	}
	if what == byConnection {
		out.Connections = rows
	} else {
		out.Volumes = rows
	}
	return out
}

func topVolume(before, after *slackerv1.TargetActivity, bounds []uint64, seconds float64) topVolumeJSON {
	v := topVolumeJSON{Target: after.GetTarget(), Connections: after.GetConnections(), InFlight: after.GetInFlight()}
	if c := after.GetConnection(); c != nil {
		v.Connection = &topConnectionJSON{ID: c.GetId(), Remote: c.GetRemote(), Identity: c.GetIdentity(), Worker: c.GetWorker(),
			Attachment: c.GetAttachment(), Opened: stamp(c.GetOpened())}
	}
	old := map[string]*slackerv1.CommandActivity{}
	for _, c := range before.GetCommands() {
		old[c.GetCommand()] = c
	}
	var other slackerv1.CommandActivity
	var failed uint64
	for _, c := range after.GetCommands() {
		d := since(old[c.GetCommand()], c)
		failed += d.GetFailed()
		switch c.GetCommand() {
		case "read":
			v.Read = topOps(d, bounds, seconds)
		case "write":
			v.Write = topOps(d, bounds, seconds)
		case "flush":
			v.Flush = topOps(d, bounds, seconds)
		default:
			sum(&other, d)
		}
	}
	v.Other = topOps(&other, bounds, seconds)
	v.ErrorsPerSecond = perSecond(failed, seconds)
	return v
}

// since returns what was counted between two answers. Counts that shrank began
// anew in between: then it is all that there is.
func since(before, after *slackerv1.CommandActivity) *slackerv1.CommandActivity {
	if before.GetDone() > after.GetDone() || before.GetFailed() > after.GetFailed() || before.GetBytes() > after.GetBytes() ||
		len(before.GetBuckets()) > len(after.GetBuckets()) {
		return after
	}
	d := &slackerv1.CommandActivity{Done: after.GetDone() - before.GetDone(), Failed: after.GetFailed() - before.GetFailed(),
		Bytes: after.GetBytes() - before.GetBytes(), Buckets: slices.Clone(after.GetBuckets())}
	for i, n := range before.GetBuckets() {
		if n > d.Buckets[i] {
			return after
		}
		d.Buckets[i] -= n
	}
	return d
}

func sum(to, c *slackerv1.CommandActivity) {
	to.Done += c.GetDone()
	to.Failed += c.GetFailed()
	to.Bytes += c.GetBytes()
	for len(to.Buckets) < len(c.GetBuckets()) {
		to.Buckets = append(to.Buckets, 0)
	}
	for i, n := range c.GetBuckets() {
		to.Buckets[i] += n
	}
}

func topOps(c *slackerv1.CommandActivity, bounds []uint64, seconds float64) topOpsJSON {
	return topOpsJSON{OpsPerSecond: perSecond(c.GetDone(), seconds), BytesPerSecond: perSecond(c.GetBytes(), seconds),
		P50: percentile(bounds, c.GetBuckets(), 0.50), P99: percentile(bounds, c.GetBuckets(), 0.99)}
}

func perSecond(n uint64, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return float64(n) / seconds
}

// percentile returns the time that part of what buckets count took at most, in
// seconds, between the ends of its bucket in proportion. What is in the bucket
// without an end is taken for the last end.
func percentile(bounds, buckets []uint64, part float64) float64 {
	var all uint64
	for _, n := range buckets {
		all += n
	}
	if all == 0 || len(bounds) == 0 {
		return 0
	}
	rank, below, from := part*float64(all), 0.0, 0.0
	for i, n := range buckets[:min(len(buckets), len(bounds))] {
		to := float64(bounds[i])
		if n > 0 && below+float64(n) >= rank {
			return (from + (to-from)*(rank-below)/float64(n)) / float64(time.Second)
		}
		below, from = below+float64(n), to
	}
	return float64(bounds[len(bounds)-1]) / float64(time.Second)
}
