package bench

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/gc"
	"github.com/slackerd/slacker/volume"
)

var (
	collectRounds = flag.Int("collect.rounds", 7, "rounds of BenchmarkCollect")
	collectFor    = flag.Duration("collect.for", 1500*time.Millisecond, "how long a round measures, with and without the collector")
)

const collectClients = 4

// collectLoad is the clients of one volume and what they waited for.
type collectLoad struct {
	b       *testing.B
	d       *volume.Device
	arrived atomic.Uint64
}

// run has every client read and overwrite random blocks for a while and returns
// how long each operation took.
func (l *collectLoad) run(seed uint64, d time.Duration) (reads, writes []time.Duration) {
	var mu sync.Mutex
	var all sync.WaitGroup
	end := time.Now().Add(d)
	for client := range uint64(collectClients) {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, client))
			buf := make([]byte, block.Size)
			var rs, ws []time.Duration
			for began := time.Now(); began.Before(end); {
				l.arrived.Add(1)
				off := uint64(r.Int64N(int64(l.d.Info().SizeBytes/block.Size))) * block.Size
				var err error
				read := r.IntN(2) == 0
				if read {
					err = l.d.ReadAt(context.Background(), buf, off)
				} else {
					buf[0], buf[1] = byte(r.Uint32()), 1
					if err = l.d.WriteAt(context.Background(), buf, off, false); err == nil {
						err = l.d.Settle()
					}
				}
				if err != nil {
					l.b.Error(err)
					return
				}
				now := time.Now()
				if read {
					rs = append(rs, now.Sub(began))
				} else {
					ws = append(ws, now.Sub(began))
				}
				began = now
			}
			mu.Lock()
			defer mu.Unlock()
			reads, writes = append(reads, rs...), append(writes, ws...)
		})
	}
	all.Wait()
	return reads, writes
}

// collecting runs the collector again and again until stop is called, which
// returns how many segments it has taken.
func collecting(b *testing.B, s *volume.Store, c *gc.Collector) (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	before := segmentIDs(s)
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			if _, faults, err := c.Collect(ctx, false, nil); ctx.Err() == nil && (err != nil || len(faults) > 0) {
				b.Errorf("collect: %v, %q", err, faults)
				return
			}
		}
	})
	return func() int {
		cancel()
		done.Wait()
		after, gone := segmentIDs(s), 0
		for id := range before {
			if !after[id] {
				gone++
			}
		}
		return gone
	}
}

func segmentIDs(s *volume.Store) map[block.SegmentID]bool {
	ids := map[block.SegmentID]bool{}
	for _, g := range s.Log().Segments() {
		ids[g.ID] = true
	}
	return ids
}

// percentile sorts ds.
func percentile(ds []time.Duration, p float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	slices.Sort(ds)
	return ds[min(int(float64(len(ds))*p), len(ds)-1)]
}

// BenchmarkCollect measures what the collector costs clients that read and
// overwrite random blocks as fast as they can: latencies without and with it, by
// turns, and the medians over rounds of the ratio. Between the rounds the store
// fills with garbage, so that the collector has segments to empty all the time.
func BenchmarkCollect(b *testing.B) {
	s, err := volume.Open(volume.Options{Dir: b.TempDir(), SegmentBytes: 16 << 20, SpareSegments: 4})
	ok(b, err)
	b.Cleanup(func() { ok(b, s.Close()) })
	_, err = s.Create(context.Background(), "v", 512<<20)
	ok(b, err)
	l := &collectLoad{b: b, d: device(b, s, "v")}
	c := gc.New(s, gc.Options{CleanBelow: 0.75, Foreground: l.arrived.Load})
	scatter(b, l.d, 200_000)
	for b.Loop() { // with -benchtime 1x
		ratios, lines, gone := map[string][]float64{}, map[string][]time.Duration{}, 0
		for round := range uint64(*collectRounds) {
			for _, with := range []bool{round%2 == 0, round%2 != 0} {
				name, stop := "alone", func() int { return 0 }
				if with {
					name, stop = "beside gc", collecting(b, s, c)
				}
				reads, writes := l.run(round, *collectFor)
				gone += stop()
				for _, p := range []float64{0.5, 0.99} {
					lines[fmt.Sprintf("read p%.0f %s", 100*p, name)] = append(lines[fmt.Sprintf("read p%.0f %s", 100*p, name)], percentile(reads, p))
					lines[fmt.Sprintf("write p%.0f %s", 100*p, name)] = append(lines[fmt.Sprintf("write p%.0f %s", 100*p, name)], percentile(writes, p))
				}
			}
			for _, what := range []string{"read p50", "read p99", "write p50", "write p99"} {
				a, g := lines[what+" alone"], lines[what+" beside gc"]
				ratios[what] = append(ratios[what], float64(g[len(g)-1])/float64(a[len(a)-1]))
			}
		}
		b.Logf("%d segments collected in %d rounds", gone, *collectRounds)
		for _, what := range []string{"read p50", "read p99", "write p50", "write p99"} {
			slices.Sort(ratios[what])
			m := ratios[what][len(ratios[what])/2]
			b.Logf("%s: %v alone, %v beside gc (medians of rounds), %.2fx (%.2f to %.2f)", what, percentile(lines[what+" alone"], 0.5),
				percentile(lines[what+" beside gc"], 0.5), m, ratios[what][0], ratios[what][len(ratios[what])-1])
			b.ReportMetric(m, what[:len(what)-4]+"-p"+what[len(what)-2:]+"-ratio")
		}
		if gone == 0 {
			b.Error("the collector had nothing to do: nothing was measured")
		}
	}
}
