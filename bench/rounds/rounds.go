package rounds

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Sample is what one contestant did under one load for a moment. What a
// comparison does not measure is 0.
type Sample struct{ Rate, MB, CPUMicros, P50Micros, P99Micros float64 }

// Figure is what one load did to one contestant, by round.
type Figure struct {
	Load string    `json:"load"`
	Name string    `json:"name"`
	Rate []float64 `json:"operations_per_second"`
	MB   []float64 `json:"mb_per_second"`
	CPU  []float64 `json:"cpu_us_per_operation"`
	P50  []float64 `json:"latency_p50_us"`
	P99  []float64 `json:"latency_p99_us"`
}

// Plan says how often and how long each contestant takes its turn.
type Plan struct {
	Rounds       int
	Each, WarmUp time.Duration // WarmUp: of a round ahead that does not count; 0: none
	Progress     io.Writer
}

// Take puts contestants under one load in turn, round by round.
func Take[C any](ctx context.Context, p Plan, load string, contestants []C, name func(C) string, measure func(C, time.Duration) (Sample, error)) ([]*Figure, error) {
	row := make([]*Figure, len(contestants))
	for i, c := range contestants {
		row[i] = &Figure{Load: load, Name: name(c)}
	}
	for round := 0; round <= p.Rounds; round++ { // round 0 warms up
		each := p.Each
		if round == 0 {
			each = p.WarmUp
		}
		if each == 0 {
			continue
		}
		for i, c := range contestants {
			_, _ = fmt.Fprintf(p.Progress, "\r%-40s round %d/%d  %-26s", load, round, p.Rounds, name(c)) // a courtesy
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			m, err := measure(c, each)
			if err != nil {
				return nil, fmt.Errorf("%s on %s: %w", load, name(c), err)
			}
			if round > 0 {
				row[i].add(m)
			}
		}
	}
	_, _ = fmt.Fprint(p.Progress, "\r", strings.Repeat(" ", 90), "\r")
	return row, nil
}

func (f *Figure) add(m Sample) {
	f.Rate, f.MB, f.CPU = append(f.Rate, m.Rate), append(f.MB, m.MB), append(f.CPU, m.CPUMicros)
	f.P50, f.P99 = append(f.P50, m.P50Micros), append(f.P99, m.P99Micros)
}

// Against is the median of the ratios of f's rate to g's in the same round, as
// text, or "-" where there is nothing to compare.
func (f *Figure) Against(g *Figure) string {
	if g == nil || g == f || len(f.Rate) != len(g.Rate) || len(f.Rate) == 0 {
		return "-"
	}
	ratios := make([]float64, len(f.Rate))
	for i := range ratios {
		ratios[i] = f.Rate[i] / g.Rate[i]
	}
	return fmt.Sprintf("%.2fx", Median(ratios))
}

// Find returns the figure of a contestant under a load, or nil.
func Find(figures []*Figure, load, name string) *Figure {
	for _, f := range figures {
		if f.Load == load && f.Name == name {
			return f
		}
	}
	return nil
}

// WriteJSON writes figures to a file; no name: it does nothing.
func WriteJSON(name string, figures any) error {
	if name == "" {
		return nil
	}
	b, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}
