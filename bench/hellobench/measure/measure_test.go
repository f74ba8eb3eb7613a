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

	"github.com/slackerd/slacker/bench/hellobench/drive"
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

// named is a driver of which only the name is asked.
type named struct {
	drive.Driver
	name string
}

func (n named) Name() string { return n.name }

func TestDriversTakeTurns(t *testing.T) {
	drivers := []drive.Driver{named{name: "a"}, named{name: "b"}, named{name: "c"}}
	first := map[string]int{}
	for turn := range 6 {
		o := order(drivers, turn)
		if len(o) != 3 {
			t.Fatalf("turn %d has %d drivers", turn, len(o))
		}
		first[o[0].Name()]++
	}
	if first["a"] != 2 || first["b"] != 2 || first["c"] != 2 {
		t.Errorf("in six turns of three drivers each is first twice, got %v", first)
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
