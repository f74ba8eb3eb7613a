package volume

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
)

// TestLeave leaves a store again and again to the next program, in the middle of
// writes that were not flushed: what was answered is there (V7, V10), and after a
// power cut what was flushed. What the first program would still write counts no
// more. Every third time the end that is told is wrong, which must cost only time.
func TestLeave(t *testing.T) {
	const blocks, rounds = 512, 9
	ctx := context.Background()
	mem := vfs.NewCrashableMem()
	rng := rand.New(rand.NewPCG(1, 1))
	o := testOptions(t, mem)
	s := mustOpen(t, o)
	must[Info](t)(s.Create(ctx, "v", blocks*block.Size))
	want := make([]byte, blocks*block.Size)
	left := 0
	o.Step = func(string) { left++ }
	for round := range rounds {
		d := openDevice(t, s, "v")
		same(t, fmt.Sprintf("round %d", round), readAll(t, d), want)
		var flushed []byte
		write := func(n int) {
			for range n {
				at := rng.IntN(blocks)
				p := pattern(rng.Uint64(), block.Size)
				mustDo(t, d.WriteAt(ctx, p, uint64(at)*block.Size, false))
				copy(want[at*block.Size:], p)
			}
		}
		write(100)
		mustDo(t, s.Prepare(ctx))
		write(50)
		mustDo(t, d.Flush(ctx))
		flushed = slices.Clone(want)
		write(50) // not settled: Leave does
		mustDo(t, d.Close())
		ends, err := s.Leave()
		mustDo(t, err)
		cut := openCopy(t, mem.CrashClone(vfs.CrashCloneCfg{}))
		oldOrNew(t, readAll(t, openDevice(t, cut, "v")), flushed, want)
		// The other program finds the files as this one has left them.
		mem = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
		o.FS, o.LogEndsBefore = mem, ends
		if round%3 == 2 {
			o.LogEndsBefore += uint64(1 + rng.IntN(3))
		}
		s = mustOpen(t, o)
	}
	if left != 4*rounds {
		t.Errorf("opening told %d steps, want 4 each time", left)
	}
}

// oldOrNew wants every block to be the one or the other.
func oldOrNew(t *testing.T, got, older, newer []byte) {
	t.Helper()
	for at := 0; at < len(got); at += block.Size {
		if b := got[at : at+block.Size]; !bytes.Equal(b, older[at:at+block.Size]) && !bytes.Equal(b, newer[at:at+block.Size]) {
			t.Fatalf("after a power cut block %d is neither what was flushed nor newer", at/block.Size)
		}
	}
}

func openCopy(t *testing.T, fs vfs.FS) *Store {
	t.Helper()
	return mustOpen(t, testOptions(t, fs))
}

// TestLeaveAndClose: when no other program could be started, the store closes as
// usual.
func TestLeaveAndClose(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewCrashableMem()
	s := mustOpen(t, testOptions(t, mem))
	must[Info](t)(s.Create(ctx, "v", 8*block.Size))
	d := openDevice(t, s, "v")
	want := pattern(7, 8*block.Size)
	mustDo(t, d.WriteAt(ctx, want, 0, false))
	mustDo(t, d.Close())
	if _, err := s.Leave(); err != nil {
		t.Fatal(err)
	}
	mustDo(t, s.Close())
	_, err := s.Leave()
	wantKind(t, err, block.Unavailable)
	again := openCopy(t, mem.CrashClone(vfs.CrashCloneCfg{}))
	same(t, "after Close", readAll(t, openDevice(t, again, "v")), want)
}
