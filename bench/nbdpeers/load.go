package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/bench/rounds"
)

// load is a way to use a server.
type load struct {
	name                     string
	bytes                    int
	depth                    int // requests in flight on a connection
	connections              int
	write, sequential, flush bool
	// finish: a flush at the end, in the measured time. One before it begins is
	// not measured.
	finish bool
}

// loads are in an order in which none spoils the next: a log-structured store
// scatters what is written at random, so what is read in sequence comes first,
// and once more at the end.
func loads() []load {
	var ls []load
	random := func(kind string, write bool) {
		for _, depth := range []int{1, 16, 64} {
			ls = append(ls, load{name: fmt.Sprintf("4k random %s, depth %d", kind, depth), bytes: 4 << 10, depth: depth, connections: 1, write: write})
		}
	}
	sequential := func(kind string, write bool) {
		for _, kib := range []int{64, 128, 1024} {
			ls = append(ls, load{name: fmt.Sprintf("%dk sequential %s", kib, kind), bytes: kib << 10, depth: 4, connections: 1, sequential: true, write: write})
		}
	}
	sequential("read", false)
	random("read", false)
	sequential("write", true)
	ls = append(ls, load{name: "1024k sequential write, flushed at the end", bytes: 1 << 20, depth: 4, connections: 1, sequential: true, write: true, finish: true})
	random("write", true)
	return append(ls,
		load{name: "4k write+flush", bytes: 4 << 10, depth: 1, connections: 1, write: true, flush: true},
		load{name: "4k write+flush, 16 connections", bytes: 4 << 10, depth: 1, connections: 16, write: true, flush: true},
		load{name: "64k sequential read of scattered blocks", bytes: 64 << 10, depth: 4, connections: 1, sequential: true},
	)
}

// measure puts a server under a load for a while.
func measure(s *server, l load, sizeBytes uint64, each time.Duration) (m rounds.Sample, err error) {
	d := &drive{l: l, units: sizeBytes / uint64(l.bytes), latencies: make([]time.Duration, 0, 1<<16)}
	began := time.Now()
	d.random = rand.New(rand.NewPCG(uint64(began.UnixNano()), 1))
	streams := make([]*stream, l.connections)
	for i := range streams {
		fd, err := dial(s.addr, s.export)
		if err != nil {
			return m, err
		}
		defer func() {
			var b [requestBytes]byte
			putRequest(b[:], cmdDisc, 0, 0, 0)
			_, _ = unix.Write(fd, b[:])
			_ = unix.Close(fd)
		}()
		streams[i] = newStream(d, fd)
	}
	if l.finish {
		if err := streams[0].finish(); err != nil {
			return m, err
		}
	}
	before, err := s.cpu()
	if err != nil {
		return m, err
	}
	began = time.Now()
	if err := d.run(streams, began.Add(each)); err != nil {
		return m, err
	}
	if l.finish {
		if err := streams[0].finish(); err != nil {
			return m, err
		}
	}
	took := time.Since(began)
	after, err := s.cpu()
	n := float64(d.count)
	slices.Sort(d.latencies)
	at := func(q float64) float64 {
		if len(d.latencies) == 0 {
			return 0
		}
		return float64(d.latencies[int(q*float64(len(d.latencies)-1))].Nanoseconds()) / 1e3
	}
	return rounds.Sample{Rate: n / took.Seconds(), CPUMicros: float64((after - before).Microseconds()) / max(n, 1), P50Micros: at(0.5), P99Micros: at(0.99)}, err
}
