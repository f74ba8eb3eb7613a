package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/slackerd/slacker/activity"
	"github.com/slackerd/slacker/latency"
	"github.com/slackerd/slacker/nbdserver"
)

// maxVolumeSeries bounds how many volumes and snapshots have metrics of their
// own; the others share one label.
const maxVolumeSeries = 1000

// volumeBounds are the buckets of a volume: few, for there are many volumes.
var volumeBounds = []time.Duration{100 * time.Microsecond, time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second, 10 * time.Second}

// The metrics of NBD connections.
var (
	nbdOpen        = prometheus.NewDesc("slacker_nbd_connections", "NBD connections open now.", nil, nil)
	nbdOpened      = prometheus.NewDesc("slacker_nbd_connections_opened_total", "NBD connections accepted.", nil, nil)
	nbdRefused     = prometheus.NewDesc("slacker_nbd_connections_refused_total", "NBD connections over the limit.", nil, nil)
	nbdInFlight    = prometheus.NewDesc("slacker_nbd_commands_in_flight", "NBD commands that have arrived and are not done.", nil, nil)
	nbdSlow        = prometheus.NewDesc("slacker_nbd_slow_commands_total", "NBD commands that took nbd.slow_request or longer, logged or not.", nil, nil)
	nbdCommands    = prometheus.NewDesc("slacker_nbd_commands_total", "NBD commands by how they ended.", []string{"command", "result"}, nil)
	nbdBytes       = prometheus.NewDesc("slacker_nbd_command_bytes_total", "Bytes that successful NBD commands were about; those of read and write crossed the wire.", []string{"command"}, nil)
	nbdSeconds     = prometheus.NewDesc("slacker_nbd_command_seconds", "Time from the arrival of an NBD command to its result.", []string{"command"}, nil)
	volumeOpen     = prometheus.NewDesc("slacker_volume_connections", "NBD connections to a volume or snapshot.", []string{"volume"}, nil)
	volumeInFlight = prometheus.NewDesc("slacker_volume_commands_in_flight", "NBD commands to it that have arrived and are not done.", []string{"volume"}, nil)
	volumeErrors   = prometheus.NewDesc("slacker_volume_command_errors_total", "NBD commands to it that failed.", []string{"volume", "command"}, nil)
	volumeBytes    = prometheus.NewDesc("slacker_volume_command_bytes_total", "Bytes that successful NBD commands to it were about.", []string{"volume", "command"}, nil)
	volumeSeconds  = prometheus.NewDesc("slacker_volume_command_seconds", "Time from the arrival of an NBD command to it to the result.", []string{"volume", "command"}, nil)
)

// nbdMetrics asks the table of connections when somebody asks for the metrics.
type nbdMetrics struct{ table *activity.Table }

func (m nbdMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nbdOpen, nbdOpened, nbdRefused, nbdInFlight, nbdSlow, nbdCommands, nbdBytes, nbdSeconds,
		volumeOpen, volumeInFlight, volumeErrors, volumeBytes, volumeSeconds} {
		ch <- d
	}
}

func (m nbdMetrics) Collect(ch chan<- prometheus.Metric) {
	s := m.table.Snapshot(maxVolumeSeries)
	gauge := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge(nbdOpen, s.Connections)
	gauge(nbdInFlight, s.InFlight)
	counter(nbdOpened, s.Opened)
	counter(nbdRefused, s.Refused)
	counter(nbdSlow, s.Slow)
	for i, name := range activity.Commands {
		c := &s.Totals[i]
		counter(nbdCommands, c.Took.Count()-c.Failed(), name, nbdserver.OK.String())
		for e, n := range c.Errors {
			counter(nbdCommands, n, name, activity.Errnos[e].String())
		}
		counter(nbdBytes, c.Bytes, name)
		ch <- histogram(nbdSeconds, &c.Took, latency.Bounds[:], name)
	}
	for i := range s.Rows {
		r := &s.Rows[i]
		gauge(volumeOpen, uint64(r.Connections), r.Target)
		gauge(volumeInFlight, r.InFlight, r.Target)
		for cmd, name := range activity.Commands {
			c := &r.Totals[cmd]
			if c.Took.Count() == 0 {
				continue
			}
			counter(volumeErrors, c.Failed(), r.Target, name)
			counter(volumeBytes, c.Bytes, r.Target, name)
			ch <- histogram(volumeSeconds, &c.Took, volumeBounds, r.Target, name)
		}
	}
}

// histogram exposes counts by some of latency.Bounds.
func histogram(d *prometheus.Desc, c *latency.Counts, bounds []time.Duration, labels ...string) prometheus.Metric {
	buckets := make(map[float64]uint64, len(bounds))
	var below uint64
	for i, b := range latency.Bounds {
		below += c.Buckets[i]
		if len(bounds) > 0 && b == bounds[0] {
			buckets[b.Seconds()] = below
			bounds = bounds[1:]
		}
	}
	return prometheus.MustNewConstHistogram(d, c.Count(), c.Sum.Seconds(), buckets, labels...)
}
