package main

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/slackerd/slacker/scrub"
)

// scrubMetrics asks the scrubber when somebody asks for the metrics.
type scrubMetrics struct{ scrubber *scrub.Scrubber }

var scrubGauges = []struct {
	desc *prometheus.Desc
	of   func(scrub.State) float64
}{
	{scrubDesc("running", "1 while a scrub runs."), func(s scrub.State) float64 {
		if s.Running {
			return 1
		}
		return 0
	}},
	{scrubDesc("done_blocks", "Live blocks that the scrub has verified."), func(s scrub.State) float64 { return float64(s.Done) }},
	{scrubDesc("total_blocks", "Live blocks that it has to verify."), func(s scrub.State) float64 { return float64(s.Total) }},
	{scrubDesc("damages", "Damages that the scrub, or the last one, found."), func(s scrub.State) float64 { return float64(len(s.Damages)) + float64(s.More) }},
	{scrubDesc("runs", "Scrubs that came to their end."), func(s scrub.State) float64 { return float64(s.Runs) }},
	{scrubDesc("finished_timestamp_seconds", "When the last scrub came to its end; 0: none has."), func(s scrub.State) float64 {
		if s.Finished.IsZero() {
			return 0
		}
		return float64(s.Finished.Unix())
	}},
}

func scrubDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("slacker_scrub_"+name, help, nil, nil)
}

func (m scrubMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, g := range scrubGauges {
		ch <- g.desc
	}
}

func (m scrubMetrics) Collect(ch chan<- prometheus.Metric) {
	s := m.scrubber.Status()
	for _, g := range scrubGauges {
		ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.of(s))
	}
}
