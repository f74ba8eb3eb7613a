package segment

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/slackerd/slacker/block"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	crashFrom  = flag.Uint64("crash-from", 0, "first seed of TestCrash")
	crashSeeds = flag.Uint64("crash-seeds", 2, "number of seeds of TestCrash")
)

var testStore = [16]byte{1, 2, 3}

// history is what a test knows of a log: all records in order, how many of
// them must survive a crash, and where a replay may begin.
type history struct {
	mu      sync.Mutex
	recs    []Record // recs[i] is record base+i
	data    [][]byte
	base    LSN
	acked   LSN
	from    Pos
	fromLSN LSN // last record before from
	gen     uint64
	deleted map[block.SegmentID]bool // value: the deletion was acknowledged
	// unread are the records of an Append that met a fault: not to be read.
	unread []LSN
}

func newHistory() *history { return &history{base: 1, deleted: map[block.SegmentID]bool{}} }

// clone copies the history for a world that splits off here.
func (h *history) clone() *history {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &history{recs: slices.Clone(h.recs), data: slices.Clone(h.data), base: h.base, acked: h.acked, from: h.from, fromLSN: h.fromLSN, gen: h.gen, deleted: map[block.SegmentID]bool{}}
	maps.Copy(c.deleted, h.deleted)
	return c
}

// world is a log on a file system together with its history.
type world struct {
	*history
	l   *Log
	rng *rand.Rand
}

func testOptions(fs vfs.FS, ahead bool) Options {
	o := Options{FS: fs, Dir: "/", StoreID: testStore, SegmentBytes: MinSegmentBytes, Spares: 2}
	if ahead {
		o.zeroAhead = zeroAlways
		o.SegmentBytes = 2 << 20 // room to write zeros in
	}
	return o
}

func (w *world) append(kind Kind, count uint32) error {
	rec := Record{Kind: kind, Layer: block.LayerID(1 + w.rng.IntN(3)), First: block.Index(w.rng.IntN(1000)), Count: count}
	var data []byte
	if kind != Zero {
		w.gen++
		data = make([]byte, int(count)*block.Size)
		for i := range int(count) {
			binary.LittleEndian.PutUint64(data[i*block.Size:], w.gen)
			binary.LittleEndian.PutUint64(data[i*block.Size+4088:], uint64(i))
		}
	}
	if kind == Move {
		rec.Old = block.MakeAddr(1, uint32(1+w.rng.IntN(100)))
	}
	var logged []LSN
	_, err := w.l.Append(rec, data, func(r Record) {
		w.mu.Lock()
		defer w.mu.Unlock()
		logged = append(logged, r.LSN)
		w.recs = append(w.recs, r)
		w.data = append(w.data, nil)
		if r.Kind != Zero {
			n := int(r.Count) * block.Size
			w.data[len(w.data)-1], data = data[:n], data[n:]
		}
	})
	if err != nil && w.l.Fault() != nil {
		w.mu.Lock()
		w.unread = append(w.unread, logged...)
		w.mu.Unlock()
	}
	return err
}

func (w *world) sync() error {
	w.mu.Lock()
	last := w.base + LSN(len(w.recs)) - 1
	w.mu.Unlock()
	if err := w.l.Sync(context.Background()); err != nil {
		return err
	}
	w.mu.Lock()
	w.acked = max(w.acked, last)
	w.mu.Unlock()
	return nil
}

// checkpoint is what Pebble does: remember a durable position.
func (w *world) checkpoint() {
	pos, lsn := w.l.DurablePos()
	w.mu.Lock()
	defer w.mu.Unlock()
	if pos != (Pos{}) {
		w.from, w.fromLSN = pos, lsn
	}
}

// deleteOldest deletes the oldest segment if a replay does not need it.
func (w *world) deleteOldest() error {
	s := w.l.Segments()
	if len(s) < 2 || s[0].Active || s[0].ID >= w.from.Segment {
		return nil
	}
	mark := func(done bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.deleted[s[0].ID] = done
	}
	mark(false)
	err := w.l.Delete(s[0].ID)
	mark(err == nil)
	return err
}

func (w *world) step() error {
	switch n := w.rng.IntN(20); {
	case n < 7:
		return w.append(Data, uint32(1+w.rng.IntN(4)))
	case n < 9:
		return w.append(Data, uint32(1+w.rng.IntN(90)))
	case n < 11:
		return w.append(Zero, uint32(1+w.rng.IntN(100000)))
	case n < 12:
		return w.append(Move, uint32(1+w.rng.IntN(5)))
	case n < 15:
		return w.sync()
	case n < 16:
		return w.l.Settle()
	case n < 17:
		return w.l.Rotate(context.Background())
	case n < 18:
		w.checkpoint()
		return nil
	case n < 19:
		return w.deleteOldest()
	default:
		return w.readSome()
	}
}

func (w *world) readSome() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.recs) == 0 {
		return nil
	}
	i := w.rng.IntN(len(w.recs))
	return w.readBack(w.recs[i], w.data[i])
}

// readBack compares what the log holds for a record. mu is held.
func (w *world) readBack(r Record, want []byte) error {
	if r.Kind == Zero || slices.Contains(w.unread, r.LSN) {
		return nil
	}
	p := make([]byte, len(want))
	err := w.l.ReadAt(r.Addr, p)
	if _, deleted := w.deleted[r.Addr.Segment()]; deleted && (err == nil || errors.Is(err, ErrGone)) {
		return nil
	}
	if err != nil {
		return err
	}
	if !bytes.Equal(p, want) {
		return fmt.Errorf("record %d at %s: wrong data", r.LSN, r.Addr)
	}
	return nil
}

// reopen recovers the log on fs, checks it against the history and forgets what
// the crash dropped.
func reopen(fs vfs.FS, h *history, rng *rand.Rand, ahead bool) (*world, error) {
	l, err := Open(testOptions(fs, ahead))
	if err != nil {
		return nil, err
	}
	w := &world{history: h, l: l, rng: rng}
	want := h.fromLSN + 1
	end, next, err := l.Replay(context.Background(), h.from, want, func(r Record) error {
		i := int(r.LSN - h.base)
		if r.LSN != want || i >= len(h.recs) {
			return fmt.Errorf("replay: record %d: want %d of %d", r.LSN, want, len(h.recs))
		}
		want++
		if a, b := fmt.Sprint(r), fmt.Sprint(h.recs[i]); a != b {
			return fmt.Errorf("replay: record %s: want %s", a, b)
		}
		return w.readBack(r, h.data[i])
	})
	if err == nil && (next != want || next <= h.acked || l.Durable() != next-1) {
		err = fmt.Errorf("replay: ends at %s before record %d, after record %d; records to %d were acknowledged", end, next, want-1, h.acked)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	for id, done := range h.deleted {
		if done && l.segment(id) != nil {
			return nil, errors.Join(fmt.Errorf("deleted segment %d is back", id), l.Close())
		}
	}
	n := int(next - h.base)
	h.recs, h.data, h.acked = h.recs[:n], h.data[:n], next-1
	for _, s := range l.Segments() {
		if err := l.Scan(context.Background(), s.ID, func(Record) error { return nil }); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return w, nil
}

// TestCrash cuts the power before every operation of a random script and again
// during and after the recovery (S1, S2: a number stands for one record in all
// of the history).
func TestCrash(t *testing.T) {
	for seed := *crashFrom; seed < *crashFrom+*crashSeeds; seed++ {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			t.Parallel()
			crashRun(t, seed, 60-40*int(seed%2), seed%2 == 1) // zeros are many more bytes to clone
		})
	}
}

func crashRun(t *testing.T, seed uint64, steps int, ahead bool) {
	rng := rand.New(rand.NewPCG(seed, 1))
	mem := vfs.NewCrashableMem()
	fs := &opFS{FS: mem, limit: testOptions(mem, ahead).SegmentBytes}
	h := newHistory()
	var crashes sync.Mutex // the background goroutines do I/O too
	fs.before = func(n int, op, name string) error {
		crashes.Lock()
		defer crashes.Unlock()
		for _, percent := range []int{0, 50, 100} {
			crng := rand.New(rand.NewPCG(seed, uint64(n*1000+percent)))
			// The history is copied after the file system: what is acknowledged
			// in between is not demanded, what was appended is known.
			acked := h.clone()
			clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: crng})
			after := h.clone()
			acked.recs, acked.data = after.recs, after.data
			for id := range after.deleted {
				if _, known := acked.deleted[id]; !known {
					acked.deleted[id] = false // begun, not acknowledged
				}
			}
			if err := recoverTwice(clone, acked, crng, ahead); err != nil {
				t.Errorf("crash before operation %d (%s %s), %d%% of unsynced data: %v", n, op, name, percent, err)
			}
		}
		return nil
	}
	w, err := reopen(fs, h, rng, ahead)
	if err != nil {
		t.Fatal(err)
	}
	for i := range steps {
		if err := w.step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	if err := w.l.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d operations, %d records, %d segments deleted", fs.n.Load(), len(h.recs), len(h.deleted))
}

// recoverTwice crashes again before one operation of the recovery, recovers,
// goes on writing, and crashes and recovers once more.
func recoverTwice(mem *vfs.MemFS, h *history, rng *rand.Rand, ahead bool) error {
	var again *vfs.MemFS
	at := 1 + rng.IntN(6)
	fs := &opFS{FS: mem}
	before := h.clone()
	fs.before = func(n int, op, name string) error {
		if n == at {
			again = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		}
		return nil
	}
	w, err := reopen(fs, h, rng, ahead)
	if err != nil {
		return err
	}
	fs.before = nil
	if again == nil {
		again, before = mem.CrashClone(vfs.CrashCloneCfg{}), h.clone()
	}
	if err := w.l.Close(); err != nil {
		return err
	}
	w, err = reopen(again, before, rng, ahead)
	if err != nil {
		return fmt.Errorf("second crash: %w", err)
	}
	for range 6 {
		if err := w.step(); err != nil {
			return errors.Join(fmt.Errorf("after recovery: %w", err), w.l.Close())
		}
	}
	last := w.clone()
	third := again.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
	after := w.clone()
	last.recs, last.data = after.recs, after.data
	if err := w.l.Close(); err != nil {
		return err
	}
	w, err = reopen(third, last, rng, ahead)
	if err != nil {
		return fmt.Errorf("third crash: %w", err)
	}
	return w.l.Close()
}
