package volume

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/slackerd/slacker/block"
)

// faultRun runs the script with operation number at failing, once or from then
// on, and says whether it completed. Whatever happened, what was acknowledged is
// in the store when it is opened on a healthy disk.
func faultRun(t *testing.T, at int, lasting bool, fault error, applies func(errorfs.Op) bool) (done bool, err error) {
	mem := vfs.NewCrashableMem()
	c := &script{open: openFor(t), e: expectation{map[string][]cell{}, map[string]bool{}}}
	var hit atomic.Bool
	count := &opCounter{}
	var seen atomic.Int64
	count.before = func(_ int, op errorfs.Op) error {
		if !applies(op) {
			return nil
		}
		if n := int(seen.Add(1)); n == at || lasting && n > at {
			hit.Store(true)
			return fault
		}
		return nil
	}
	c.fs = errorfs.Wrap(mem, count)
	err = c.run()
	if c.s != nil && err != nil {
		if c.s.Fault() != nil {
			c.refuses(t, at)
		}
	}
	e := c.expected()
	if c.s != nil {
		_ = c.s.Close() // the store may be fenced
	}
	for _, fs := range []vfs.FS{mem.CrashClone(vfs.CrashCloneCfg{}), mem} {
		if oerr := recoverOnce(t, fs, e); oerr != nil {
			t.Errorf("operation %d failing with %v (script: %v): reopened: %v", at, fault, err, oerr)
		}
	}
	return !hit.Load(), err
}

// refuses wants a fenced store to acknowledge nothing (V6).
func (c *script) refuses(t *testing.T, at int) {
	ctx := context.Background()
	if _, err := c.s.Create(ctx, "late", block.Size); err == nil {
		t.Errorf("operation %d failed: a fenced store made a volume", at)
	}
	for name := range c.e.must {
		d, err := c.s.Open(ctx, name, "test", nil)
		if err != nil {
			continue
		}
		if !d.Info().ReadOnly {
			if err := d.WriteAt(ctx, make([]byte, block.Size), 0, true); err == nil {
				t.Errorf("operation %d failed: a fenced store acknowledged a FUA write to %s", at, name)
			}
		}
		_ = d.Close()
	}
}

// ofLog says whether an operation is one of the log's. Where Pebble's own fail
// the process may end: TestMapFaultAtEveryOperation.
func ofLog(op errorfs.Op) bool { return strings.Contains(op.Path, "segments") }

// TestFaultAtEveryOperation fails the first, second, third ... operation of the
// log until the script completes.
func TestFaultAtEveryOperation(t *testing.T) {
	step := 3
	if *crashFull {
		step = 1
	}
	for _, lasting := range []bool{false, true} {
		failed := 0
		for at := 1; ; at += step {
			done, err := faultRun(t, at, lasting, errors.New("planted"), ofLog)
			if done {
				if err != nil {
					t.Fatalf("without a fault: %v", err)
				}
				break
			}
			if err != nil {
				failed++
			}
			if t.Failed() {
				return
			}
		}
		t.Logf("lasting %v: %d runs failed", lasting, failed)
		if failed == 0 {
			t.Error("no fault was ever noticed")
		}
	}
}

// TestReadAfterFailedWrite: a write that the log could not put into its file leaves
// what was there, to be read although the store is fenced.
func TestReadAfterFailedWrite(t *testing.T) {
	ctx := context.Background()
	var broken atomic.Bool
	count := &opCounter{before: func(_ int, op errorfs.Op) error {
		if broken.Load() && op.Kind == errorfs.OpFileWriteAt && ofLog(op) {
			return errors.New("planted")
		}
		return nil
	}}
	s := mustOpen(t, testOptions(t, errorfs.Wrap(vfs.NewMem(), count)))
	must[Info](t)(s.Create(ctx, "v", mib))
	d := openDevice(t, s, "v")
	before := pattern(1, mib/4)
	mustDo(t, d.WriteAt(ctx, before, 0, true))
	broken.Store(true)
	wantKind(t, d.WriteAt(ctx, pattern(2, mib/4), 0, false), block.IO)
	got := make([]byte, mib/4)
	mustDo(t, d.ReadAt(ctx, got, 0))
	same(t, "after a failed write", got, before)
}

// TestFullDisk meets ENOSPC when a segment is made: a clean error, nothing is
// fenced, deletes work, and there is room again afterwards.
func TestFullDisk(t *testing.T) {
	ctx := context.Background()
	var full atomic.Bool
	count := &opCounter{}
	mem := vfs.NewMem()
	count.before = func(_ int, op errorfs.Op) error {
		if full.Load() && op.Kind == errorfs.OpCreate && len(op.Path) > 4 && op.Path[len(op.Path)-4:] == ".seg" {
			return syscall.ENOSPC
		}
		return nil
	}
	s := mustOpen(t, testOptions(t, errorfs.Wrap(mem, count)))
	must[Info](t)(s.Create(ctx, "v", 64*mib))
	must[Info](t)(s.Create(ctx, "old", mib))
	d := openDevice(t, s, "v")
	full.Store(true)
	kept := 0
	var err error
	for ; err == nil && kept < 64; kept++ {
		err = d.WriteAt(ctx, pattern(uint64(kept), mib/4), uint64(kept)*mib/4, false)
	}
	wantKind(t, err, block.NoSpace)
	kept--
	if s.Fault() != nil {
		t.Fatalf("a full disk fenced the store: %v", s.Fault())
	}
	mustDo(t, d.Flush(ctx))
	must[[]string](t)(s.Delete(ctx, "old", false))
	for i := range kept {
		p := make([]byte, mib/4)
		mustDo(t, d.ReadAt(ctx, p, uint64(i)*mib/4))
		same(t, "before the disk was full", p, pattern(uint64(i), mib/4))
	}
	full.Store(false)
	mustDo(t, d.WriteAt(ctx, pattern(99, mib), 32*mib, true))
}
