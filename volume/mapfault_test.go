package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	mapFaultFrom    = "SLACKER_TEST_MAP_FAULT_FROM" // makes the test the child that starts there
	mapFaultLasting = "SLACKER_TEST_MAP_FAULT_LASTING"
	mapFaultRuns    = 25 // of a child, which keeps what dead stores hold
	mapFaultLimit   = 60 * time.Second
)

// atFatal returns a logger that calls end where the extent map logs that it
// cannot go on. That is where the process ends, so end must not return.
func atFatal(end func()) *zap.Logger {
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(io.Discard), zap.ErrorLevel)
	return zap.New(core, zap.Hooks(func(e zapcore.Entry) error {
		if e.Message == "extent map cannot go on" {
			end()
		}
		return nil
	}))
}

// panics says whether Pebble panics, without a word to its logger, when op
// fails: where it syncs the directory of a marker, and where it goes on to its
// next log, some of which its other goroutines do.
func panics(op errorfs.Op) bool {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, strings.HasSuffix(op.Path, ".log"))]
	return op.Kind == errorfs.OpFileSync && bytes.Contains(stacks, []byte("atomicfs.(*Marker).Move")) ||
		bytes.Contains(stacks, []byte("pebble/v2.(*DB).rotateWAL"))
}

// mapFaultRun runs the script with operation number at of the files other than
// the log's failing, once or from then on. When the process would end, it
// stands still there, and is looked at as it is: with all that was written and
// with what a power cut leaves.
func mapFaultRun(t *testing.T, at int, lasting bool) (done, ended, failed bool) {
	mem := vfs.NewCrashableMem()
	fatal := make(chan struct{}, 16)
	end := func() {
		fatal <- struct{}{}
		select {}
	}
	logger := atFatal(end)
	c := &script{e: expectation{map[string][]cell{}, map[string]bool{}}, open: func(fs vfs.FS) (*Store, error) {
		o := testOptions(t, fs)
		o.Logger = logger
		return Open(o)
	}}
	var seen atomic.Int64
	var where atomic.Value
	where.Store("")
	c.fs = errorfs.Wrap(mem, &opCounter{before: func(_ int, op errorfs.Op) error {
		if ofLog(op) {
			return nil
		}
		n := int(seen.Add(1))
		if n == at {
			where.Store(fmt.Sprintf("%v of %s", op.Kind, op.Path))
		}
		if n == at || lasting && n > at {
			if panics(op) {
				end()
			}
			return errors.New("planted")
		}
		return nil
	}})
	result := make(chan error, 1)
	go func() {
		err := c.run()
		if c.s != nil && err != nil && c.s.Fault() != nil {
			c.refuses(t, at)
		}
		if c.s != nil {
			_ = c.s.Close() // the store may be fenced
		}
		result <- err
	}()
	var err error
	select {
	case err = <-result:
	case <-fatal:
		ended = true
	case <-time.After(mapFaultLimit):
		t.Errorf("operation %d failing (%s, lasting %v): neither done nor ended after %v", at, where.Load(), lasting, mapFaultLimit)
		return false, false, false
	}
	for _, percent := range []int{0, 100} {
		e := c.expected()
		cut := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(uint64(at), 1))})
		if oerr := recoverOnce(t, cut, e.allow(c.expected())); oerr != nil {
			t.Errorf("operation %d failing (%s, lasting %v, script: %v, process ended: %v), then a crash that keeps %d %%: reopened: %v",
				at, where.Load(), lasting, err, ended, percent, oerr)
		}
	}
	return where.Load() == "", ended, err != nil
}

// TestMapFaultAtEveryOperation fails each operation of the files of the extent
// map (Pebble's log, manifest, tables, markers, directories) and of the store's
// directory, until the script completes: what was acknowledged is there when
// the store is opened without the fault, and it is sound. Where Pebble cannot go
// on the process ends; the runs are in children, which stop there.
func TestMapFaultAtEveryOperation(t *testing.T) {
	if os.Getenv(mapFaultFrom) != "" {
		mapFaultChild(t)
	}
	for _, lasting := range []string{"false", "true"} {
		ended, failed := 0, 0
		for next := "1"; next != "done"; {
			cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", fmt.Sprintf("-crash.full=%v", *crashFull))
			cmd.Env = append(os.Environ(), mapFaultFrom+"="+next, mapFaultLasting+"="+lasting)
			out, err := cmd.CombinedOutput()
			at := bytes.LastIndex(out, []byte("\nnext "))
			if err != nil && lostInOpen(out) {
				// The run is lost, and what it left is not looked at.
				t.Logf("run %s, lasting %s: lost to goroutines that Pebble's failing Open leaves behind", lastRun(out), lasting)
				next, ended = strconv.Itoa(must[int](t)(strconv.Atoi(lastRun(out)))+mapFaultStep()), ended+1
				continue
			}
			if err != nil || at < 0 {
				t.Fatalf("runs from %s, lasting %s: %v\n%s", next, lasting, err, out)
			}
			var e, f int
			if _, err := fmt.Sscanf(string(out[at+1:]), "next %s %d %d", &next, &e, &f); err != nil {
				t.Fatalf("%v in %q", err, out[at:])
			}
			ended, failed = ended+e, failed+f
		}
		t.Logf("lasting %s: %d runs ended the process, %d failed", lasting, ended, failed)
		if ended == 0 || failed == 0 {
			t.Errorf("lasting %s: %d runs ended the process and %d failed: want some of both", lasting, ended, failed)
		}
	}
}

// lostInOpen reports that all a child complains of is what Pebble's Open does
// when it fails: it closes what it has while Pebble's own goroutines still
// compact, or collect statistics of tables. They race with it, or panic. The
// process was about to end, with an error.
func lostInOpen(out []byte) bool {
	reports := bytes.Split(out, []byte("WARNING: DATA RACE\n"))[1:]
	for _, r := range reports {
		r, _, _ = bytes.Cut(r, []byte("\n=================="))
		one, other, _ := bytes.Cut(r, []byte("\nPrevious "))
		if !bytes.Contains(one, []byte("cockroachdb/pebble/v2.Open.func")) {
			one, other = other, one
		}
		if !bytes.Contains(one, []byte("cockroachdb/pebble/v2.Open.func")) || !ofPebble(other) {
			return false
		}
	}
	_, trace, panicked := bytes.Cut(out, []byte("\npanic: "))
	if panicked { // behind the message the goroutine that panicked is first
		_, trace, _ = bytes.Cut(trace, []byte("\n\ngoroutine "))
		if !ofPebble(trace) {
			return false
		}
	}
	return (panicked || len(reports) > 0) && !bytes.Contains(out, []byte("\n    mapfault_test.go:"))
}

// ofPebble reports whether a stack, up to an empty line, is Pebble's alone.
func ofPebble(stack []byte) bool {
	stack, _, _ = bytes.Cut(stack, []byte("\n\n"))
	return bytes.Contains(stack, []byte("cockroachdb/pebble/v2.(*DB).")) && !bytes.Contains(stack, []byte("slackerd/slacker/"))
}

func lastRun(out []byte) string {
	runs := bytes.Split(out, []byte("\nrun "))
	number, _, _ := bytes.Cut(runs[len(runs)-1], []byte("\n"))
	return string(number)
}

func mapFaultStep() int {
	if *crashFull {
		return 1
	}
	return sampled(11, 41)
}

// mapFaultChild does some of the runs and exits: dead stores cannot be closed.
func mapFaultChild(t *testing.T) {
	at, err := strconv.Atoi(os.Getenv(mapFaultFrom))
	mustDo(t, err)
	next := ""
	endings, failures := 0, 0
	for range mapFaultRuns {
		fmt.Printf("\nrun %d\n", at)
		done, ended, failed := mapFaultRun(t, at, strings.HasPrefix(os.Getenv(mapFaultLasting), "t"))
		if t.Failed() {
			os.Exit(1)
		}
		if done {
			next = "done"
			break
		}
		if ended {
			endings++
		}
		if failed {
			failures++
		}
		at += mapFaultStep()
		next = strconv.Itoa(at)
		if ended { // its goroutines stand where panics would look
			break
		}
	}
	fmt.Printf("\nnext %s %d %d\n", next, endings, failures)
	os.Exit(0)
}

func TestLostInOpen(t *testing.T) {
	const race = "run 1\n\nrun 12\n\n==================\nWARNING: DATA RACE\nWrite at 0x1 by goroutine 1:\n  " +
		"github.com/cockroachdb/pebble/v2/internal/cache.(*Handle).Close()\n  github.com/cockroachdb/pebble/v2.Open.func5()\n  " +
		"github.com/slackerd/slacker/cow.Open()\n\nPrevious read at 0x1 by goroutine 2:\n  " +
		"github.com/cockroachdb/pebble/v2.(*DB).flush()\n\nGoroutine 1 (running) created at:\n  github.com/slackerd/slacker/volume.x()\n==================\n"
	ours := strings.Replace(race, "cockroachdb/pebble/v2.(*DB).flush", "slackerd/slacker/cow.flush", 1)
	const stats = "\nrun 12\n\npanic: runtime error: nil\n[signal]\n\ngoroutine 7 [running]:\n" +
		"github.com/cockroachdb/pebble/v2.(*DB).collectTableStats(0x1)\n\ngoroutine 1 [select]:\ngithub.com/slackerd/slacker/volume.Open()\n"
	const own = "\nrun 12\n\npanic: ours\n\ngoroutine 7 [running]:\ngithub.com/slackerd/slacker/volume.Open()\n\n" +
		"goroutine 1 [select]:\ngithub.com/cockroachdb/pebble/v2.(*DB).collectTableStats(0x1)\n"
	for out, want := range map[string]bool{
		race: true, race + race: true, stats: true, race + stats: true,
		"": false, "--- FAIL\n": false, ours: false, race + ours: false, own: false, race + own: false, ours + stats: false,
		race + "\n    mapfault_test.go:1: operation 12 failing\n": false,
	} {
		if got := lostInOpen([]byte(out)); got != want {
			t.Errorf("lost in Pebble's Open: %v, want %v:\n%s", got, want, out)
		}
	}
	if got := lastRun([]byte(race + own)); got != "12" {
		t.Errorf("last run %s, want 12", got)
	}
}
