package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slackerd/slacker/nbdclient"
)

// load is a way to use a server.
type load struct {
	name                     string
	bytes                    int
	depth                    int // requests in flight on a connection
	connections              int
	write, sequential, flush bool
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
	random("write", true)
	return append(ls,
		load{name: "4k write+flush", bytes: 4 << 10, depth: 1, connections: 1, write: true, flush: true},
		load{name: "4k write+flush, 16 connections", bytes: 4 << 10, depth: 1, connections: 16, write: true, flush: true},
		load{name: "64k sequential read of scattered blocks", bytes: 64 << 10, depth: 4, connections: 1, sequential: true},
	)
}

// measure puts a server under a load for a while.
func measure(ctx context.Context, s *server, l load, o options) (rate, cpuMicros float64, err error) {
	conns := make([]*nbdclient.Conn, l.connections)
	for i := range conns {
		if conns[i], err = nbdclient.Dial(ctx, s.addr, s.export, nbdclient.DefaultOptions()); err != nil {
			return 0, 0, err
		}
		defer func() { _ = conns[i].Disconnect() }()
	}
	before, err := s.cpu()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	until := began.Add(o.each)
	var count, next atomic.Int64
	var wg sync.WaitGroup
	faults := make(chan error, l.connections*l.depth)
	for i, c := range conns {
		for d := range l.depth {
			wg.Add(1)
			go func() {
				defer wg.Done()
				faults <- l.work(ctx, c, o.sizeBytes, uint64(i*1000+d), until, &count, &next)
			}()
		}
	}
	wg.Wait()
	took := time.Since(began)
	close(faults)
	for f := range faults {
		err = errors.Join(err, f)
	}
	after, cerr := s.cpu()
	n := float64(count.Load())
	return n / took.Seconds(), float64((after - before).Microseconds()) / max(n, 1), errors.Join(err, cerr)
}

func (l load) work(ctx context.Context, c *nbdclient.Conn, size, seed uint64, until time.Time, count, next *atomic.Int64) error {
	r := rand.New(rand.NewPCG(seed, uint64(until.UnixNano())))
	buf := make([]byte, l.bytes)
	for i := range buf {
		buf[i] = byte(r.Uint32())
	}
	slots := size / uint64(l.bytes)
	for time.Now().Before(until) {
		at := r.Uint64N(slots)
		if l.sequential {
			at = uint64(next.Add(1)) % slots
		}
		var err error
		if l.write {
			buf[r.IntN(len(buf))]++
			err = c.WriteAt(ctx, buf, at*uint64(l.bytes), false)
		} else {
			err = c.ReadAt(ctx, buf, at*uint64(l.bytes))
		}
		if err == nil && l.flush {
			err = c.Flush(ctx)
		}
		if err != nil {
			return err
		}
		count.Add(1)
	}
	return nil
}
