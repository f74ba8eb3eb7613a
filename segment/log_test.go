package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/slackerd/slacker/block"
)

func TestSplitAndReadBack(t *testing.T) {
	for _, fs := range []vfs.FS{vfs.NewCrashableMem(), vfs.Default} {
		o := testOptions(fs, false)
		if fs == vfs.Default {
			o.Dir = t.TempDir()
		}
		l := openLog(t, o)
		ctx := context.Background()
		if _, _, err := l.Replay(ctx, Pos{}, 0, nil); err != nil {
			t.Fatal(err)
		}
		data := make([]byte, 600*block.Size)
		for i := range 600 {
			data[i*block.Size] = byte(i)
			data[i*block.Size+1] = byte(i >> 8)
		}
		var pieces []Record
		last, err := l.Append(Record{Kind: Move, Layer: 1, First: 5, Count: 600, Old: block.MakeAddr(1, 50)}, data, func(r Record) { pieces = append(pieces, r) })
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(last) != fmt.Sprint(pieces[len(pieces)-1]) || len(pieces) < 3 {
			t.Errorf("%d pieces, last %v", len(pieces), last)
		}
		check := func() {
			done := uint32(0)
			for _, r := range pieces {
				want := data[int(done)*block.Size : int(done+r.Count)*block.Size]
				if r.First != block.Index(5+done) || r.Old != block.MakeAddr(1, 50+done) || r.Count > maxChunkBlocks {
					t.Errorf("piece %v after %d blocks", r, done)
				}
				got := make([]byte, len(want))
				if err := l.ReadAt(r.Addr, got); err != nil || !bytes.Equal(got, want) {
					t.Errorf("read of %s: %v, or wrong data", r.Addr, err)
				}
				clear(got)
				if ok, err := l.ReadNow(r.Addr, got); !ok || err != nil || !bytes.Equal(got, want) {
					t.Errorf("read now of %s: %v %v, or wrong data", r.Addr, ok, err)
				}
				done += r.Count
			}
			if done != 600 {
				t.Errorf("%d blocks: want 600", done)
			}
		}
		check()
		if err := l.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		check()
		if l.DiskBytes() < 2*MinSegmentBytes {
			t.Errorf("disk bytes %d", l.DiskBytes())
		}
		mustClose(t, l)
	}
}

func TestRefused(t *testing.T) {
	mem := vfs.NewCrashableMem()
	for _, size := range []int64{-1, 1, 1<<20 + 1, MaxSegmentBytes + block.Size} {
		if _, err := Open(Options{FS: mem, Dir: "/", SegmentBytes: size}); !block.Is(err, block.Invalid) {
			t.Errorf("segment size %d: %v", size, err)
		}
	}
	l := openLog(t, testOptions(mem, false))
	if _, err := l.Append(Record{Kind: Zero, Layer: 1, Count: 1}, nil, nil); !block.Is(err, block.Internal) {
		t.Errorf("append before replay: %v", err)
	}
	if _, _, err := l.Replay(context.Background(), Pos{}, 0, nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Replay(context.Background(), Pos{}, 0, nil); !block.Is(err, block.Internal) {
		t.Errorf("second replay: %v", err)
	}
	one := make([]byte, block.Size)
	for _, c := range []struct {
		rec  Record
		data []byte
	}{
		{Record{Kind: 0, Layer: 1, Count: 1}, one},
		{Record{Kind: 4, Layer: 1, Count: 1}, one},
		{Record{Kind: Data, Count: 1}, one},
		{Record{Kind: Data, Layer: 1}, nil},
		{Record{Kind: Data, Layer: 1, Count: 2}, one},
		{Record{Kind: Data, Layer: 1, Count: 1, Sums: []uint32{1, 2}}, one},
		{Record{Kind: Zero, Layer: 1, Count: 1}, one},
		{Record{Kind: Data, Layer: 1, First: maxVolumeBlocks, Count: 1}, one},
		{Record{Kind: Data, Layer: 1, First: ^block.Index(0), Count: 1}, one},
	} {
		if _, err := l.Append(c.rec, c.data, nil); !block.Is(err, block.Invalid) {
			t.Errorf("append %+v: %v: want invalid", c.rec, err)
		}
	}
	rec, err := l.Append(Record{Kind: Data, Layer: 1, Count: 1}, one, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		addr  block.Addr
		bytes int
	}{{rec.Addr, 0}, {rec.Addr, 100}, {block.MakeAddr(1, 0), block.Size}, {rec.Addr + 1, block.Size}, {rec.Addr, 2 * block.Size}} {
		if err := l.ReadAt(c.addr, make([]byte, c.bytes)); !block.Is(err, block.Invalid) {
			t.Errorf("read %s %d bytes: %v: want invalid", c.addr, c.bytes, err)
		}
	}
	if err := l.ReadAt(block.MakeAddr(99, 1), one); !errors.Is(err, ErrGone) {
		t.Errorf("read of no segment: %v", err)
	}
	if err := l.Delete(rec.Addr.Segment()); !block.Is(err, block.Busy) {
		t.Errorf("delete of the active segment: %v", err)
	}
	mustClose(t, l)
	if _, err := l.Append(Record{Kind: Zero, Layer: 1, Count: 1}, nil, nil); !block.Is(err, block.Unavailable) {
		t.Errorf("append after close: %v", err)
	}

	o := testOptions(mem, false)
	o.StoreID[0]++
	other := openLog(t, o)
	if len(other.Segments()) != 0 {
		t.Error("segments of another store are listed")
	}
	mustClose(t, other)
}

func TestReadOnly(t *testing.T) {
	mem := vfs.NewCrashableMem()
	w := buildWorld(t, mem, 6)
	before := mem.String()
	fs := &opFS{FS: mem, before: func(_ int, op, name string) error { return fmt.Errorf("%s of %s", op, name) }}
	o := testOptions(fs, false)
	o.ReadOnly = true
	l := openLog(t, o)
	n := 0
	if _, next, err := l.Replay(context.Background(), Pos{}, 1, func(Record) error { n++; return nil }); err != nil || n != len(w.recs) || int(next) != n+1 {
		t.Errorf("replay: %d records, next %d, %v", n, next, err)
	}
	if _, err := l.Append(Record{Kind: Zero, Layer: 1, Count: 1}, nil, nil); !block.Is(err, block.ReadOnly) {
		t.Errorf("append: %v", err)
	}
	for _, s := range l.Segments() {
		if err := l.Scan(context.Background(), s.ID, func(Record) error { return nil }); err != nil {
			t.Errorf("scan: %v", err)
		}
	}
	mustClose(t, l)
	if after := mem.String(); after != before {
		t.Errorf("files changed from\n%s\nto\n%s", before, after)
	}
}

// TestReplayFromSurvivorOfDelete: the position that Pebble keeps may be the end
// of a segment that the cleaner has deleted.
func TestReplayFromSurvivorOfDelete(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewCrashableMem()
	w, err := reopen(mem, newHistory(), rand.New(rand.NewPCG(1, 1)), false)
	if err != nil {
		t.Fatal(err)
	}
	steps := []func() error{
		func() error { return w.append(Data, 3) }, w.sync,
		func() error { w.checkpoint(); return w.l.Rotate(ctx) },
		func() error { return w.append(Data, 3) }, w.sync,
		func() error { w.deleted[1] = true; return w.l.Delete(1) },
		func() error { return w.l.Delete(2) },
	}
	for i, step := range steps {
		err := step()
		if i == len(steps)-1 {
			if !block.Is(err, block.Busy) {
				t.Errorf("delete of the tail: %v", err)
			}
		} else if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	if err := w.l.Delete(1); !errors.Is(err, ErrGone) {
		t.Errorf("second delete: %v", err)
	}
	mustClose(t, w.l)
	again, err := reopen(mem.CrashClone(vfs.CrashCloneCfg{}), w.history, w.rng, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(again.recs) != 2 {
		t.Errorf("%d records: want 2", len(again.recs))
	}
	mustClose(t, again.l)

	l := openLog(t, testOptions(mem, false))
	if _, _, err := l.Replay(ctx, Pos{}, 1, nil); !block.Is(err, block.Corrupt) {
		t.Errorf("replay from the beginning without the first segment: %v: want corrupt", err)
	}
	mustClose(t, l)
}

// TestReplayWrongNumber: a position with the number of another one is refused,
// not taken for the end of the log.
func TestReplayWrongNumber(t *testing.T) {
	mem := vfs.NewCrashableMem()
	buildWorld(t, mem, 4)
	for _, next := range []LSN{1, 3, 5, 1000} {
		l := openLog(t, testOptions(mem, false))
		// Each round is two data records of two blocks in one chunk.
		if _, _, err := l.Replay(context.Background(), Pos{1, 6}, next, func(Record) error { return nil }); !block.Is(err, block.Corrupt) {
			t.Errorf("replay of record 4 as %d: %v: want corrupt", next, err)
		}
		mustClose(t, l)
	}
	l := openLog(t, testOptions(mem, false))
	if _, next, err := l.Replay(context.Background(), Pos{1, 6}, 4, func(Record) error { return nil }); err != nil || next != 13 {
		t.Errorf("replay of record 4: next %d, %v: want 13", next, err)
	}
	mustClose(t, l)
}

// TestConcurrent runs appenders, syncers, readers and a deleter for a while on
// real files; readers check what they read, and a reopen what is there.
func TestConcurrent(t *testing.T) {
	ctx := context.Background()
	o := testOptions(vfs.Default, true)
	o.Dir = t.TempDir()
	l := openLog(t, o)
	if _, _, err := l.Replay(ctx, Pos{}, 1, nil); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var recs, readable []Record // of commit, and of appends that have returned
	stop := make(chan struct{})
	var writers, others sync.WaitGroup
	for g := range 4 {
		writers.Go(func() {
			data := make([]byte, 64*block.Size)
			for i := range 150 {
				var own []Record
				n := 1 + (i*7+g)%64
				for b := range n {
					data[b*block.Size] = byte(i)
				}
				rec, err := l.Append(Record{Kind: Data, Layer: block.LayerID(g + 1), First: block.Index(i), Count: uint32(n)}, data[:n*block.Size], func(r Record) {
					mu.Lock()
					recs = append(recs, r)
					mu.Unlock()
					own = append(own, r)
				})
				if err == nil {
					mu.Lock()
					readable = append(readable, own...)
					mu.Unlock()
				}
				if err == nil && i%3 == 0 {
					err = l.Sync(ctx)
					if err == nil && l.Durable() < rec.LSN {
						err = fmt.Errorf("durable to %d after the sync of %d", l.Durable(), rec.LSN)
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 2 {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				var r Record
				if len(readable) > 0 {
					r = readable[rand.IntN(len(readable))]
				}
				mu.Unlock()
				if r.LSN == 0 {
					continue
				}
				p := make([]byte, int(r.Count)*block.Size)
				err := l.ReadAt(r.Addr, p)
				if errors.Is(err, ErrGone) {
					continue
				}
				if err == nil {
					err = r.verify(&p)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond): // pace, not order
			}
			if s := l.Segments(); len(s) > 4 {
				if err := l.Delete(s[0].ID); err != nil {
					t.Error(err)
				}
			}
			if err := l.Rotate(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	writers.Wait()
	close(stop)
	others.Wait()
	mustClose(t, l)
	if !slices.IsSortedFunc(recs, func(a, b Record) int { return int(a.LSN) - int(b.LSN) }) || recs[len(recs)-1].LSN != LSN(len(recs)) {
		t.Error("commit was not called once per record in order")
	}

	again := openLog(t, o)
	first := again.Segments()[0]
	i := int(again.segment(first.ID).header.first) - 1
	if _, _, err := again.Replay(ctx, Pos{first.ID, 1}, LSN(i+1), func(r Record) error {
		if fmt.Sprint(r) != fmt.Sprint(recs[i]) {
			return fmt.Errorf("record %v: want %v", r, recs[i])
		}
		i++
		return nil
	}); err != nil || i != len(recs) {
		t.Errorf("replayed to %d of %d: %v", i, len(recs), err)
	}
	mustClose(t, again)
}
