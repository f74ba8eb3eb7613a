package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/volume"
)

// knownCommands and knownResults are the labels whose metrics are looked up
// once: commands are too many per second to do it for each.
var (
	knownCommands = []nbdserver.Command{nbdserver.CmdRead, nbdserver.CmdWrite, nbdserver.CmdDisc, nbdserver.CmdFlush,
		nbdserver.CmdTrim, nbdserver.CmdCache, nbdserver.CmdWriteZeroes, nbdserver.CmdBlockStatus}
	knownResults = []nbdserver.Errno{nbdserver.OK, nbdserver.EPERM, nbdserver.EIO, nbdserver.EINVAL, nbdserver.ENOSPC,
		nbdserver.EOVERFLOW, nbdserver.ENOTSUP}
)

// commandMetrics are those of one command.
type commandMetrics struct {
	bytes   prometheus.Counter
	seconds prometheus.Observer
	results map[nbdserver.Errno]prometheus.Counter
}

// nbdMetrics measures an NBD server.
type nbdMetrics struct {
	open            prometheus.Gauge
	opened, refused prometheus.Counter
	commands        map[nbdserver.Command]*commandMetrics
	other           *commandMetrics
}

var _ nbdserver.Metrics = (*nbdMetrics)(nil)

func newNBDMetrics(r prometheus.Registerer) *nbdMetrics {
	m := &nbdMetrics{
		open:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "slacker_nbd_connections", Help: "NBD connections open now."}),
		opened:   prometheus.NewCounter(prometheus.CounterOpts{Name: "slacker_nbd_connections_opened_total", Help: "NBD connections accepted."}),
		refused:  prometheus.NewCounter(prometheus.CounterOpts{Name: "slacker_nbd_connections_refused_total", Help: "NBD connections over the limit."}),
		commands: map[nbdserver.Command]*commandMetrics{},
	}
	results := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "slacker_nbd_commands_total", Help: "NBD commands by how they ended."}, []string{"command", "result"})
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "slacker_nbd_command_bytes_total",
		Help: "Bytes that successful NBD commands were about; those of read and write crossed the wire."}, []string{"command"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "slacker_nbd_command_seconds", Help: "Time from the arrival of an NBD command to its result.",
		Buckets: prometheus.ExponentialBuckets(16e-6, 4, 11)}, []string{"command"})
	r.MustRegister(m.open, m.opened, m.refused, results, bytes, seconds)
	of := func(name string) *commandMetrics {
		c := &commandMetrics{bytes: bytes.WithLabelValues(name), seconds: seconds.WithLabelValues(name), results: map[nbdserver.Errno]prometheus.Counter{}}
		for _, e := range knownResults {
			c.results[e] = results.WithLabelValues(name, e.String())
		}
		return c
	}
	for _, c := range knownCommands {
		m.commands[c] = of(c.String())
	}
	m.other = of("unknown")
	return m
}

func (m *nbdMetrics) ConnectionOpened()  { m.open.Inc(); m.opened.Inc() }
func (m *nbdMetrics) ConnectionClosed()  { m.open.Dec() }
func (m *nbdMetrics) ConnectionRefused() { m.refused.Inc() }

func (m *nbdMetrics) CommandDone(cmd nbdserver.Command, lengthBytes uint64, took time.Duration, result nbdserver.Errno) {
	c := m.commands[cmd]
	if c == nil {
		c = m.other
	}
	counter, ok := c.results[result]
	if !ok {
		counter = c.results[nbdserver.EIO]
	}
	counter.Inc()
	c.seconds.Observe(took.Seconds())
	if result == nbdserver.OK {
		c.bytes.Add(float64(lengthBytes))
	}
}

// storeMetrics asks the store when somebody asks for the metrics.
type storeMetrics struct {
	store  *volume.Store
	gauges []storeGauge
	fault  *prometheus.Desc
}

type storeGauge struct {
	desc *prometheus.Desc
	of   func(volume.Status) float64
}

func newStoreMetrics(store *volume.Store) *storeMetrics {
	gauge := func(name, help string, of func(volume.Status) float64) storeGauge {
		return storeGauge{prometheus.NewDesc("slacker_store_"+name, help, nil, nil), of}
	}
	return &storeMetrics{store: store,
		fault: prometheus.NewDesc("slacker_store_fenced", "1 when the store has fenced itself after a failure and takes no writes.", nil, nil),
		gauges: []storeGauge{
			gauge("volumes", "Volumes.", func(s volume.Status) float64 { return float64(s.Volumes) }),
			gauge("snapshots", "Snapshots.", func(s volume.Status) float64 { return float64(s.Snapshots) }),
			gauge("attachments", "Attachments.", func(s volume.Status) float64 { return float64(s.Attachments) }),
			gauge("connections", "Connections with a volume or snapshot open.", func(s volume.Status) float64 { return float64(s.Connections) }),
			gauge("data_bytes", "Live data in segments.", func(s volume.Status) float64 { return float64(s.DataBytes) }),
			gauge("segment_bytes", "What the segment files take on disk.", func(s volume.Status) float64 { return float64(s.SegmentBytes) }),
			gauge("reclaimable_bytes", "Of these, what is not live.", func(s volume.Status) float64 { return float64(s.ReclaimableBytes) }),
			gauge("capacity_bytes", "Size of the file system below.", func(s volume.Status) float64 { return float64(s.CapacityBytes) }),
			gauge("free_bytes", "Free bytes of the file system below.", func(s volume.Status) float64 { return float64(s.FreeBytes) }),
		}}
}

func (m *storeMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.fault
	for _, g := range m.gauges {
		ch <- g.desc
	}
}

func (m *storeMetrics) Collect(ch chan<- prometheus.Metric) {
	st, err := m.store.Status(context.Background())
	if err != nil {
		ch <- prometheus.NewInvalidMetric(m.fault, err)
		return
	}
	fenced := 0.0
	if st.Fault != nil {
		fenced = 1
	}
	ch <- prometheus.MustNewConstMetric(m.fault, prometheus.GaugeValue, fenced)
	for _, g := range m.gauges {
		ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.of(st))
	}
}

// newRegistry returns a registry of the process's own metrics and the store's.
func newRegistry(store *volume.Store) *prometheus.Registry {
	r := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "slacker_build_info", Help: "Always 1; the version is the label.",
		ConstLabels: prometheus.Labels{"version": versionText()}})
	build.Set(1)
	r.MustRegister(build, newStoreMetrics(store), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}
