package worker

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slackerd/slacker/fusefile"
	"github.com/slackerd/slacker/latency"
)

// maxMetricTargets bounds the attachments that have series of their own: those
// that were attached first.
const maxMetricTargets = 1000

// metricBounds are the buckets of times: few, for there are many attachments.
var metricBounds = []time.Duration{100 * time.Microsecond, time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second, 10 * time.Second}

// metricFamily is one metric and how an attachment shows in it.
type metricFamily struct {
	name, kind, help string
	of               func(p *metricText, name string, a *attachedFigures)
}

// attachedFigures is what is known of one attachment: figures of the fuse driver,
// stat of the kernel's nbd.
type attachedFigures struct {
	*state
	alive bool
	figures
	stat *deviceStat
}

func single(value func(a *attachedFigures) float64) func(*metricText, string, *attachedFigures) {
	return func(p *metricText, name string, a *attachedFigures) {
		p.line(name, value(a), "target", a.Target)
	}
}

// counted is single for what only the fuse driver's agents count.
func counted(value func(a *attachedFigures) float64) func(*metricText, string, *attachedFigures) {
	return func(p *metricText, name string, a *attachedFigures) {
		if len(a.Operations) > 0 {
			p.line(name, value(a), "target", a.Target)
		}
	}
}

func byOperation(value func(o *fusefile.Operation) uint64) func(*metricText, string, *attachedFigures) {
	return func(p *metricText, name string, a *attachedFigures) {
		for i := range a.Operations {
			if o := &a.Operations[i]; o.Took.Count() > 0 {
				p.line(name, float64(value(o)), "target", a.Target, "operation", o.Name)
			}
		}
	}
}

func ofDevice(value func(o *deviceOperation) float64) func(*metricText, string, *attachedFigures) {
	return func(p *metricText, name string, a *attachedFigures) {
		if a.stat == nil {
			return
		}
		for i := range a.stat.operations {
			o := &a.stat.operations[i]
			p.line(name, value(o), "target", a.Target, "device", a.stat.device, "operation", o.name)
		}
	}
}

func ofCache(value func(a *attachedFigures) uint64) func(*metricText, string, *attachedFigures) {
	return func(p *metricText, name string, a *attachedFigures) {
		if a.Cache != nil {
			p.line(name, float64(value(a)), "target", a.Target)
		}
	}
}

var metricFamilies = []metricFamily{
	{"slacker_worker_attachment_up", "gauge", "1 while the process behind the device is alive.", single(func(a *attachedFigures) float64 {
		if a.alive {
			return 1
		}
		return 0
	})},
	{"slacker_worker_connections", "gauge", "NBD connections of the attachment open now.", counted(func(a *attachedFigures) float64 { return float64(a.Connected) })},
	{"slacker_worker_reconnections_total", "counter", "NBD connections that were lost and made anew.", counted(func(a *attachedFigures) float64 { return float64(a.Reconnected) })},
	{"slacker_worker_operation_errors_total", "counter", "Requests of the kernel that failed.", byOperation(func(o *fusefile.Operation) uint64 { return o.Failed })},
	{"slacker_worker_operation_bytes_total", "counter", "Bytes that successful requests of the kernel were about.", byOperation(func(o *fusefile.Operation) uint64 { return o.Bytes })},
	{"slacker_worker_operation_seconds", "histogram", "Time from a request of the kernel to its answer.", operationTimes},
	{"slacker_worker_device_operations_total", "counter", "Requests to the nbd device that have ended.", ofDevice(func(o *deviceOperation) float64 { return float64(o.count) })},
	{"slacker_worker_device_bytes_total", "counter", "Bytes that requests to the nbd device were about.", ofDevice(func(o *deviceOperation) float64 { return float64(o.bytes) })},
	{"slacker_worker_device_seconds_total", "counter", "Time that requests to the nbd device took, summed.", ofDevice(func(o *deviceOperation) float64 { return o.took.Seconds() })},
	{"slacker_worker_device_in_flight", "gauge", "Requests to the nbd device that have not ended.", func(p *metricText, name string, a *attachedFigures) {
		if a.stat != nil {
			p.line(name, float64(a.stat.inFlight), "target", a.Target, "device", a.stat.device)
		}
	}},
	{"slacker_worker_cache_hit_bytes_total", "counter", "Bytes that were read from the worker's cache.", ofCache(func(a *attachedFigures) uint64 { return a.Cache.HitBytes })},
	{"slacker_worker_cache_miss_bytes_total", "counter", "Bytes that could have been in the cache and were read from the server.", ofCache(func(a *attachedFigures) uint64 { return a.Cache.MissBytes })},
	{"slacker_worker_cache_passed_bytes_total", "counter", "Bytes that the cache may not have and were read from the server.", ofCache(func(a *attachedFigures) uint64 { return a.Cache.PassedBytes })},
	{"slacker_worker_cache_prefetched_bytes_total", "counter", "Bytes that were put into the cache before they were read.", ofCache(func(a *attachedFigures) uint64 { return a.Cache.PrefetchedBytes })},
	{"slacker_worker_cache_filled_bytes_total", "counter", "Bytes that were put into the cache.", ofCache(func(a *attachedFigures) uint64 { return a.Cache.FilledBytes })},
}

func operationTimes(p *metricText, name string, a *attachedFigures) {
	for i := range a.Operations {
		o := &a.Operations[i]
		if o.Took.Count() == 0 {
			continue
		}
		labels := []string{"target", a.Target, "operation", o.Name}
		var below uint64
		bounds := metricBounds
		for b, end := range latency.Bounds {
			below += o.Took.Buckets[b]
			if len(bounds) > 0 && end == bounds[0] {
				p.line(name+"_bucket", float64(below), append(labels[:4:4], "le", fmt.Sprint(end.Seconds()))...)
				bounds = bounds[1:]
			}
		}
		p.line(name+"_bucket", float64(o.Took.Count()), append(labels[:4:4], "le", "+Inf")...)
		p.line(name+"_sum", o.Took.Sum.Seconds(), labels...)
		p.line(name+"_count", float64(o.Took.Count()), labels...)
	}
}

// metricText is metrics in Prometheus' text format.
type metricText struct{ bytes.Buffer }

var labelEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (p *metricText) head(name, kind, help string) {
	p.WriteString("# HELP " + name + " " + help + "\n# TYPE " + name + " " + kind + "\n")
}

func (p *metricText) line(name string, value float64, labels ...string) {
	p.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		sep := ","
		if i == 0 {
			sep = "{"
		}
		p.WriteString(sep + labels[i] + `="` + labelEscaper.Replace(labels[i+1]) + `"`)
	}
	if len(labels) > 0 {
		p.WriteString("}")
	}
	p.WriteString(" " + strconv.FormatFloat(value, 'g', -1, 64) + "\n")
}

// Metrics returns what the attachments of this host do, in Prometheus' text
// format. It asks no server, and waits for nothing.
func (w *Worker) Metrics() ([]byte, error) { return nbdDriver{store: w.store}.metrics() }

func (d nbdDriver) metrics() ([]byte, error) {
	states, faults, err := d.store.all()
	if err != nil {
		return nil, err
	}
	devices, err := d.connected()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(states, func(a, b *state) int { return a.Created.Compare(b.Created) })
	var p metricText
	p.head("slacker_worker_attachments", "gauge", "Volumes and snapshots attached to this host.")
	for _, driver := range []string{driverFuse, driverNBD} {
		n := 0
		for _, s := range states {
			if s.Driver == driver {
				n++
			}
		}
		p.line("slacker_worker_attachments", float64(n), "driver", driver)
	}
	p.head("slacker_worker_unreadable_attachments", "gauge", "State files that cannot be read.")
	p.line("slacker_worker_unreadable_attachments", float64(len(faults)))
	var all []*attachedFigures
	for _, s := range states[:min(len(states), maxMetricTargets)] {
		a := &attachedFigures{state: s, alive: agent{d.store, s.Target}.pid() != 0}
		if f := d.store.figures(s.Target); f != nil {
			a.figures = *f
		}
		if n, ok := devices[s.AttachmentID]; ok {
			a.stat = d.stat(fmt.Sprintf("nbd%d", n))
		}
		all = append(all, a)
	}
	for _, f := range metricFamilies {
		p.head(f.name, f.kind, f.help)
		for _, a := range all {
			f.of(&p, f.name, a)
		}
	}
	return p.Bytes(), nil
}
