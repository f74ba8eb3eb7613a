package rounds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestTake: contestants take turns, the round ahead does not count, and a failure
// names load and contestant.
func TestTake(t *testing.T) {
	var order []string
	p := Plan{Rounds: 2, Each: time.Second, WarmUp: time.Millisecond, Progress: io.Discard}
	same := func(s string) string { return s }
	figures, err := Take(t.Context(), p, "reads", []string{"a", "b"}, same, func(s string, each time.Duration) (Sample, error) {
		order = append(order, fmt.Sprint(s, each))
		return Sample{Rate: float64(len(order)), P99Micros: 7}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a1ms", "b1ms", "a1s", "b1s", "a1s", "b1s"}; !slices.Equal(order, want) {
		t.Errorf("turns are %v, want %v", order, want)
	}
	if a := Find(figures, "reads", "a"); a == nil || !slices.Equal(a.Rate, []float64{3, 5}) || !slices.Equal(a.P99, []float64{7, 7}) {
		t.Errorf("figure of a is %+v", a)
	}
	_, err = Take(t.Context(), p, "reads", []string{"a"}, same, func(string, time.Duration) (Sample, error) { return Sample{}, errors.New("broken") })
	if err == nil || !strings.Contains(err.Error(), "reads on a: broken") {
		t.Errorf("error %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Take(ended, p, "reads", []string{"a"}, same, func(string, time.Duration) (Sample, error) { return Sample{}, nil }); err == nil {
		t.Error("it went on after its end")
	}
}

// TestAgainst: ratios are formed within a round, before the median is taken.
func TestAgainst(t *testing.T) {
	f := &Figure{Rate: []float64{10, 200, 30}}
	g := &Figure{Rate: []float64{5, 100, 60}}
	if got := f.Against(g); got != "2.00x" {
		t.Errorf("ratio %s, want 2.00x", got)
	}
	for _, g := range []*Figure{nil, f, {Rate: []float64{1}}} {
		if got := f.Against(g); got != "-" {
			t.Errorf("ratio to %+v is %s, want none", g, got)
		}
	}
}

func TestQuantile(t *testing.T) {
	v := make([]float64, 100)
	for i := range v {
		v[i] = float64(100 - i)
	}
	for q, want := range map[float64]float64{0.99: 99, 1: 100, 0: 1, 0.5: 50} {
		if got := Quantile(v, q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if Median(v) != 50.5 || Median(nil) != 0 || Quantile(nil, 0.5) != 0 {
		t.Errorf("median %v, of none %v", Median(v), Median(nil))
	}
}
