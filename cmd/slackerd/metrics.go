package main

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/slackerd/slacker/activity"
	"github.com/slackerd/slacker/scrub"
	"github.com/slackerd/slacker/volume"
)

// storeMetrics asks the store when somebody asks for the metrics.
type storeMetrics struct {
	store  *volume.Store
	gauges []storeGauge
	counts []storeGauge // counters
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
			gauge("reserve_bytes", "Of these, what data leaves free (store.reserve_size).", func(s volume.Status) float64 { return float64(s.ReserveBytes) }),
			gauge("short", "1 while less than the reserve is free, so that data is refused with ENOSPC.", func(s volume.Status) float64 {
				if s.Short {
					return 1
				}
				return 0
			}),
			gauge("map_cache_pages", "Pages of the extent map in memory, 256 blocks each.", func(s volume.Status) float64 { return float64(s.MapCache.Pages) }),
			gauge("map_cache_limit_pages", "How many of them are kept.", func(s volume.Status) float64 { return float64(s.MapCache.Limit) }),
		},
		counts: []storeGauge{
			gauge("map_cache_hits_total", "Pages of the extent map that were asked for and in memory.", func(s volume.Status) float64 { return float64(s.MapCache.Hits) }),
			gauge("map_cache_misses_total", "Pages of the extent map that were asked for and not in memory.", func(s volume.Status) float64 { return float64(s.MapCache.Misses) }),
			gauge("reads_from_memory_total", "Reads of segments for clients whose data was in memory.", func(s volume.Status) float64 { return float64(s.Reads.Memory) }),
			gauge("reads_from_disk_total", "Reads of segments for clients that may have waited for a disk.", func(s volume.Status) float64 { return float64(s.Reads.Disk) }),
		}}
}

func (m *storeMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.fault
	for _, g := range m.gauges {
		ch <- g.desc
	}
	for _, g := range m.counts {
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
	for _, g := range m.counts {
		ch <- prometheus.MustNewConstMetric(g.desc, prometheus.CounterValue, g.of(st))
	}
}

// newRegistry returns a registry of the process's own metrics, the store's and those of table.
func newRegistry(store *volume.Store, table *activity.Table, scrubber *scrub.Scrubber) *prometheus.Registry {
	r := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "slacker_build_info", Help: "Always 1; the version is the label.",
		ConstLabels: prometheus.Labels{"version": versionText()}})
	build.Set(1)
	r.MustRegister(build, newStoreMetrics(store), scrubMetrics{scrubber}, nbdMetrics{table}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}
