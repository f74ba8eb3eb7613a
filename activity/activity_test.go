package activity_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/slackerd/slacker/activity"
	"github.com/slackerd/slacker/nbdserver"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func open(table *activity.Table, id uint64, export string) nbdserver.Recorder {
	return table.ExportOpened(nbdserver.Conn{ID: id, Remote: "peer"}, export, nil)
}

func do(r nbdserver.Recorder, d nbdserver.Done) {
	r.Arrived()
	r.Done(d)
}

var (
	write  = nbdserver.Done{Command: nbdserver.CmdWrite, LengthBytes: 4096, Took: time.Millisecond}
	failed = nbdserver.Done{Command: nbdserver.CmdWrite, Result: nbdserver.ENOSPC, LengthBytes: 4096, Took: 2 * time.Millisecond}
)

// TestTotals is invariants 2 and 3.
func TestTotals(t *testing.T) {
	table := activity.New(activity.Options{})
	a, b, c := open(table, 1, "v"), open(table, 2, "v"), open(table, 3, "w")
	do(a, write)
	do(a, failed)
	do(b, write)
	do(c, nbdserver.Done{Command: 99, Result: nbdserver.EINVAL})
	b.Arrived()
	check := func(when string, rows, conns int, inFlight, ofV uint64) {
		t.Helper()
		s := table.Snapshot(10)
		w := &s.Totals[nbdserver.CmdWrite]
		if s.Totals.Count() != 4 || w.Took.Count() != 3 || w.Failed() != 1 || w.Bytes != 8192 || w.Took.Sum != 4*time.Millisecond || s.InFlight != inFlight {
			t.Errorf("%s: %d commands, %d in flight, writes %+v", when, s.Totals.Count(), s.InFlight, w)
		}
		if len(s.Rows) != rows {
			t.Fatalf("%s: %d rows, want %d", when, len(s.Rows), rows)
		}
		if rows == 0 {
			return
		}
		if v := &s.Rows[0]; v.Target != "v" || v.Connections != conns || v.Totals.Count() != ofV || v.InFlight != inFlight {
			t.Errorf("%s: %s has %d connections, %d commands, %d in flight", when, v.Target, v.Connections, v.Totals.Count(), v.InFlight)
		}
	}
	check("all open", 2, 2, 1, 3)
	a.Closed()
	check("one closed", 2, 1, 1, 3)
	c.Closed()
	check("another closed", 1, 1, 1, 3)
	b.Closed()
	check("all closed", 0, 0, 0, 0)
	d := open(table, 4, "v")
	defer d.Closed()
	check("opened again", 1, 1, 0, 0)
}

func TestRowsAreBounded(t *testing.T) {
	table := activity.New(activity.Options{})
	for i := range 10 {
		r := open(table, uint64(i), fmt.Sprintf("v%d", i))
		defer r.Closed()
		do(r, write)
	}
	s := table.Snapshot(3)
	if len(s.Rows) != 4 || s.Rows[2].Target != "v2" {
		t.Fatalf("%d rows: %v", len(s.Rows), s.Rows)
	}
	if o := s.Rows[3]; o.Target != activity.Other || o.Connections != 7 || o.Totals.Count() != 7 {
		t.Errorf("%s: %d connections, %d commands, want 7 and 7", o.Target, o.Connections, o.Totals.Count())
	}
}

// TestConnections: each has its own counts, number and beginning; over a limit
// the rest is summed.
func TestConnections(t *testing.T) {
	now := time.Unix(100, 0)
	table := activity.New(activity.Options{Now: func() time.Time { return now }})
	for i := range 4 {
		r := open(table, uint64(4-i), fmt.Sprintf("v%d", 4-i)) // the latest has the lowest number
		defer r.Closed()
		for range i + 1 {
			do(r, write)
		}
		now = now.Add(time.Second)
	}
	rows, other := table.Connections(3)
	if len(rows) != 3 || other.Target != activity.Other || other.Connections != 1 || other.Totals.Count() != 1 {
		t.Fatalf("%d rows, and %d connections with %d commands", len(rows), other.Connections, other.Totals.Count())
	}
	for i, r := range rows {
		if want := uint64(i + 1); r.Conn.ID != want || r.Target != fmt.Sprintf("v%d", want) || r.Totals.Count() != 5-want || r.Opened != time.Unix(100+int64(4-want), 0) {
			t.Errorf("row %d is %d, %s, with %d commands, opened %v", i, r.Conn.ID, r.Target, r.Totals.Count(), r.Opened)
		}
	}
}

// TestConcurrent counts while connections close and somebody looks: totals
// never shrink and nothing is lost.
func TestConcurrent(t *testing.T) {
	const conns, each = 8, 2000
	table := activity.New(activity.Options{})
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			r := open(table, uint64(i), "v")
			for range each {
				do(r, write)
			}
			r.Closed()
		})
	}
	var before uint64
	for range 100 {
		s := table.Snapshot(1)
		n := s.Totals.Count()
		if n < before {
			t.Fatalf("the total went from %d to %d", before, n)
		}
		before = n
	}
	wg.Wait()
	s := table.Snapshot(1)
	if n := s.Totals.Count(); n != conns*each {
		t.Errorf("%d commands, want %d", n, conns*each)
	}
}

// TestSlow is invariant 4.
func TestSlow(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	now := time.Unix(1, 0)
	table := activity.New(activity.Options{Slow: time.Second, Logger: zap.New(core), Now: func() time.Time { return now }})
	r := open(table, 7, "v")
	defer r.Closed()
	slow := nbdserver.Done{Command: nbdserver.CmdRead, Took: time.Second, Queued: 300 * time.Millisecond, Payload: 100 * time.Millisecond}
	do(r, nbdserver.Done{Command: nbdserver.CmdRead, Took: time.Second - 1})
	for range 15 {
		do(r, slow)
	}
	if n, s := logs.Len(), table.Snapshot(1).Slow; n != 10 || s != 15 {
		t.Errorf("%d lines and %d slow commands, want 10 and 15", n, s)
	}
	now = now.Add(time.Second)
	do(r, slow)
	do(r, slow)
	if n := logs.Len(); n != 11 {
		t.Fatalf("%d lines a second later, want 11", n)
	}
	m := logs.All()[10].ContextMap()
	if m["volume"] != "v" || m["left_out"] != uint64(5) || m["device"] != 600*time.Millisecond || m["conn"] != uint64(7) {
		t.Errorf("the line says %v", m)
	}
}

// BenchmarkDone is the cost of a command (invariant 1).
func BenchmarkDone(b *testing.B) {
	r := open(activity.New(activity.Options{Slow: time.Second}), 1, "v")
	b.ReportAllocs()
	for b.Loop() {
		do(r, write)
	}
}
