package segment

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/slackerd/slacker/block"
)

var errInjected = errors.New("injected fault")

// TestFaults fails the Nth operation of a script for N = 1, 2, ... until the
// script runs through. After the fault the log refuses writes with that error,
// does no more I/O, serves reads, and what was acknowledged survives a crash (S6).
func TestFaults(t *testing.T) {
	for n := 1; ; n++ {
		if n > 1000 {
			t.Fatal("the script never runs through")
		}
		if !faultRun(t, n) {
			t.Logf("%d operations", n-1)
			return
		}
	}
}

func faultRun(t *testing.T, fail int) (hit bool) {
	var faults atomic.Int64
	var failedOp string
	var writes atomic.Int64
	mem := vfs.NewCrashableMem()
	fs := &opFS{FS: mem}
	fs.before = func(n int, op, name string) error {
		if op == "write" {
			writes.Add(1)
		}
		if n == fail {
			failedOp = op
			return errInjected
		}
		return nil
	}
	h := newHistory()
	o := testOptions(fs, fail%2 == 0)
	o.OnFault = func(error) { faults.Add(1) }
	l := openLog(t, o)
	w := &world{history: h, l: l, rng: rand.New(rand.NewPCG(3, 3))}
	_, _, err := l.Replay(context.Background(), Pos{}, 1, nil)
	for i := 0; err == nil && i < 40; i++ {
		err = w.step()
	}
	if err == nil {
		err = l.Close() // meets what the background met
		if fs.n.Load() < int64(fail) {
			return false
		}
	}
	if err == nil && failedOp == "remove" {
		t.Errorf("operation %d (%s) failed unnoticed", fail, failedOp)
	}
	if !errors.Is(err, errInjected) || !block.Is(err, block.IO) {
		t.Errorf("operation %d (%s) failed: got %v (%v): want an I/O error with its cause", fail, failedOp, err, block.KindOf(err))
	}
	if failedOp != "remove" {
		checkFenced(t, w, fail, failedOp, &writes)
		_ = l.Close() // waits for who reports the fault
		if faults.Load() != 1 {
			t.Errorf("operation %d (%s): OnFault called %d times: want 1", fail, failedOp, faults.Load())
		}
	}
	if err := l.Close(); failedOp == "remove" && err != nil {
		t.Errorf("close: %v", err)
	}
	again, err := reopen(mem.CrashClone(vfs.CrashCloneCfg{}), h, w.rng, false)
	if err != nil {
		t.Fatalf("after operation %d (%s) failed: %v", fail, failedOp, err)
	}
	mustClose(t, again.l)
	return true
}

func checkFenced(t *testing.T, w *world, fail int, op string, writes *atomic.Int64) {
	t.Helper()
	w.l.writeMu.Lock() // what is on its way may finish
	before := writes.Load()
	w.l.writeMu.Unlock()
	if err := w.l.writeOut(w.l.closedSeq); err == nil && w.l.Fault() != nil || writes.Load() != before {
		t.Errorf("operation %d (%s) failed: a write was tried after that: %v", fail, op, err)
	}
	if w.l.replayed && w.l.Fault() == nil {
		t.Errorf("operation %d (%s) failed: no fault", fail, op)
	}
	if err := w.append(Zero, 1); err == nil {
		t.Errorf("operation %d (%s) failed: append works", fail, op)
	}
	if err := w.l.Sync(context.Background()); err == nil {
		t.Errorf("operation %d (%s) failed: sync works", fail, op)
	}
	if w.l.closed {
		return
	}
	for i, r := range w.recs {
		if err := w.readBack(r, w.data[i]); err != nil {
			t.Errorf("operation %d (%s) failed: read of record %d: %v", fail, op, r.LSN, err)
		}
	}
}

// TestNoSpace: a full disk is met by Append; what was accepted syncs, and when
// there is room again the log goes on (S5).
func TestNoSpace(t *testing.T) {
	for _, failing := range []string{"create", "allocate", "sync"} {
		var full atomic.Bool
		mem := vfs.NewCrashableMem()
		fs := &opFS{FS: mem, limit: MinSegmentBytes, before: func(_ int, op, _ string) error {
			if full.Load() && op == failing {
				return fmt.Errorf("%s: %w", op, syscall.ENOSPC)
			}
			return nil
		}}
		w, err := reopen(fs, newHistory(), rand.New(rand.NewPCG(1, 1)), false)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.append(Data, 10); err != nil {
			t.Fatal(err)
		}
		full.Store(true)
		for err = nil; err == nil; {
			err = w.append(Data, 10)
		}
		if !block.Is(err, block.NoSpace) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v: want no space", failing, err)
		}
		if n := len(w.recs); n < 20 {
			t.Errorf("%s: only %d records fit", failing, n)
		}
		if err := w.sync(); err != nil {
			t.Errorf("%s: sync on a full disk: %v", failing, err)
		}
		full.Store(false)
		if err := w.append(Data, 10); err != nil {
			t.Errorf("%s: append when there is room again: %v", failing, err)
		}
		if err := w.sync(); err != nil {
			t.Error(err)
		}
		again, err := reopen(mem.CrashClone(vfs.CrashCloneCfg{}), w.clone(), w.rng, false)
		if err != nil {
			t.Fatalf("%s: %v", failing, err)
		}
		mustClose(t, again.l)
		mustClose(t, w.l)
	}
}
