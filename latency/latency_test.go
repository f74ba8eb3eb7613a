package latency

import (
	"testing"
	"time"
)

func TestBounds(t *testing.T) {
	if first, last := Bounds[0], Bounds[len(Bounds)-1]; first != 10*time.Microsecond || last != 30*time.Second {
		t.Errorf("bounds from %v to %v", first, last)
	}
	for i := 1; i < len(Bounds); i++ {
		if r := float64(Bounds[i]) / float64(Bounds[i-1]); r <= 1 || r > 1.7 {
			t.Errorf("bound %v is %.2f times the one before", Bounds[i], r)
		}
	}
}

func TestHistogram(t *testing.T) {
	var h Histogram
	var want Counts
	add := func(d time.Duration, bucket int) {
		h.Add(d)
		want.Buckets[bucket]++
		want.Sum += max(d, 0)
	}
	add(-time.Second, 0)
	add(0, 0)
	for i, b := range Bounds {
		add(b-1, i)
		add(b, i) // a bound belongs to the bucket that it ends
		add(b+1, i+1)
	}
	add(time.Hour, len(Bounds))
	var got Counts
	h.AddTo(&got)
	if got != want {
		t.Errorf("got %v\nwant %v", got, want)
	}
	got.Add(&want)
	if n := uint64(2 * (3 + 3*len(Bounds))); got.Count() != n || got.Sum != 2*want.Sum {
		t.Errorf("twice: %d in %v, want %d in %v", got.Count(), got.Sum, n, 2*want.Sum)
	}
}
