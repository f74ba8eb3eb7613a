package measure

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

func TestLogResumes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "records.jsonl")
	l, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	good := Record{Kind: Cycle, Image: "redis", Driver: "copy", Link: "1g", Run: 1.5, At: time.Unix(1, 0).UTC(), Phases: []Phase{{"root", 1}}}
	bad := Record{Kind: Cycle, Image: "gcc", Driver: "copy", Link: "1g", Error: "no luck"}
	for _, r := range []Record{good, bad} {
		if err := l.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"kind":"cycle","image":"cut sh`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = OpenLog(path); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if !l.Has(good) || l.Has(bad) {
		t.Errorf("has the good record: %v, the failed one: %v, want only the first", l.Has(good), l.Has(bad))
	}
	other := good
	other.Round = 1
	if l.Has(other) {
		t.Error("has a record of another round")
	}
	if all := l.Records(); len(all) != 1 || !reflect.DeepEqual(all[0], good) {
		t.Errorf("got %+v, want %+v", all, good)
	}
}

func TestDriversTakeTurns(t *testing.T) {
	first := map[string]int{}
	m := Matrix{Kind: Cycle, Link: "1g", Images: []string{"x", "y"}, Drivers: []string{"a", "b", "c"}, Rounds: 3}
	all := m.Records()
	if len(all) != 18 {
		t.Fatalf("%d measurements of 2 images, 3 drivers and 3 rounds, want 18", len(all))
	}
	for n := 0; n < len(all); n += 3 {
		first[all[n].Driver]++
		for _, r := range all[n : n+3] {
			if r.Image != all[n].Image || r.Round != all[n].Round || r.Link != "1g" || r.Kind != Cycle {
				t.Errorf("measurement %+v is not beside %+v", r, all[n])
			}
		}
	}
	if first["a"] != 2 || first["b"] != 2 || first["c"] != 2 {
		t.Errorf("in six turns of three drivers each is first twice, got %v", first)
	}
}

func TestMatrix(t *testing.T) {
	scale := Matrix{Kind: Scale, Images: []string{"x"}, Drivers: []string{"a", "b"}, Starts: []int{1, 4}, Rounds: 2}.Records()
	if len(scale) != 4 || scale[0].N != 1 || scale[3].N != 4 {
		t.Errorf("scale: got %+v, want two numbers of starts for two drivers, once", scale)
	}
	long := Matrix{Kind: LongRun, Images: []string{"gcc", "redis"}, Drivers: []string{"a"}, Rounds: 1}.Records()
	if len(long) != 1 || long[0].Image != "redis" {
		t.Errorf("throughput: got %+v, want redis only, which has a load", long)
	}
}

func TestExpected(t *testing.T) {
	r := func(image, driver string, wall float64) Record {
		return Record{Kind: Cycle, Link: "1g", Image: image, Driver: driver, Wall: wall}
	}
	failed := r("gcc", "a", 100)
	failed.Error = "no luck"
	known := []Record{r("redis", "a", 2), r("redis", "a", 4), failed, r("gcc", "b", 9)}
	slow := r("redis", "a", 0)
	slow.Link = "100m"
	later := r("redis", "a", 0)
	later.Round = 2
	for _, c := range []struct {
		todo []Record
		want time.Duration
	}{
		{nil, 0},
		{[]Record{r("redis", "a", 0)}, 3 * time.Second},
		{[]Record{r("gcc", "a", 0)}, 5 * time.Second}, // of its kind and link
		{[]Record{later}, 3 * time.Second},
		{[]Record{slow}, unknownSeconds * time.Second},
		{[]Record{r("redis", "a", 0), r("gcc", "b", 0)}, 12 * time.Second},
	} {
		if got := Expected(c.todo, known); got != c.want {
			t.Errorf("expected for %+v: %v, want %v", c.todo, got, c.want)
		}
	}
}

// TestTimeIsOver wants nothing to be begun after the time is over, and what the
// log has not to be an error.
func TestTimeIsOver(t *testing.T) {
	l, err := OpenLog(filepath.Join(t.TempDir(), "records.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	done, left := Record{Kind: Cycle, Image: "redis"}, Record{Kind: Cycle, Image: "gcc"}
	if err := l.Add(done); err != nil {
		t.Fatal(err)
	}
	s := &Session{Log: l, Progress: io.Discard, Until: time.Now().Add(-time.Second)}
	never := func(*Record) error { t.Error("it is measured"); return nil }
	if err := s.once(t.Context(), done, never); err != nil {
		t.Errorf("what the log has: %v", err)
	}
	if err := s.once(t.Context(), left, never); !errors.Is(err, ErrTime) {
		t.Errorf("what it has not: %v, want %v", err, ErrTime)
	}
	if m := l.Missing([]Record{done, left}); len(m) != 1 || m[0].Image != "gcc" {
		t.Errorf("missing: %+v, want gcc", m)
	}
}

func TestOnce(t *testing.T) {
	l, err := OpenLog(filepath.Join(t.TempDir(), "records.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	s := &Session{Log: l, Progress: io.Discard}
	s.begin(3)
	calls := 0
	r := Record{Kind: Cycle, Image: "redis"}
	for range 2 {
		if err := s.once(t.Context(), r, func(*Record) error { calls++; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if calls != 1 {
		t.Errorf("measured %d times, want once", calls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.Round = 1
	if err := s.once(ctx, r, func(*Record) error { cancel(); return errors.New("cut short") }); !errors.Is(err, context.Canceled) || l.Has(r) {
		t.Errorf("what an interrupt cut short: %v, recorded %v, want it to end the run and no record", err, l.Has(r))
	}
}

func TestReadingLoads(t *testing.T) {
	csv := "\"test\",\"rps\",\"avg\"\n\"SET\",\"12345.50\",\"0.1\"\n\"GET\",\"777\",\"0.1\"\n"
	if csvFigure(csv, "SET") != 12345.5 || csvFigure(csv, "GET") != 777 {
		t.Errorf("redis-benchmark: got %v and %v", csvFigure(csv, "SET"), csvFigure(csv, "GET"))
	}
	if v := after("latency average = 4.2 ms\ntps = 812.5 (without initial)\n", "tps = "); v != 812.5 {
		t.Errorf("pgbench: got %v", v)
	}
	if v := after("Requests per second:    4321.09 [#/sec] (mean)\n", "Requests per second:"); v != 4321.09 {
		t.Errorf("ab: got %v", v)
	}
	if v := after("nothing", "tps = "); v != 0 {
		t.Errorf("nothing: got %v", v)
	}
}
