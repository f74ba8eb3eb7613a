package segment

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestZerosBeforeData holds back zeros that are being written until data wants
// to go to the same place: the data must wait, or the zeros would wipe it out.
func TestZerosBeforeData(t *testing.T) {
	for _, count := range []uint32{directBlocks - 1, 100} {
		t.Run(fmt.Sprintf("%d blocks", count), func(t *testing.T) { zerosBeforeData(t, count) })
	}
}

func zerosBeforeData(t *testing.T, count uint32) {
	started, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	mem := vfs.NewCrashableMem()
	fs := &opFS{FS: mem, before: func(_ int, op, _ string) error {
		if op == "zeros" {
			once.Do(func() {
				close(started)
				<-release
			})
		}
		return nil
	}}
	w, err := reopen(fs, newHistory(), rand.New(rand.NewPCG(1, 1)), true)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.append(Data, 1); err != nil {
		t.Fatal(err)
	}
	if err := w.sync(); err != nil {
		t.Fatal(err)
	}
	<-started
	done := make(chan error, 1)
	go func() {
		for range 400 / count {
			if err := w.append(Data, count); err != nil {
				done <- err
				return
			}
		}
		done <- w.sync()
	}()
	deadline := time.Now().Add(60 * time.Second)
	for waiting := false; !waiting && len(done) == 0; time.Sleep(time.Millisecond) {
		w.l.mu.Lock()
		chunks := slices.Clone(w.l.pending)
		if c := w.l.open; c != nil && c.direct {
			chunks = append(chunks, c)
		}
		for _, c := range chunks {
			waiting = waiting || c.pos+1+c.used > w.l.ahead.lo
		}
		w.l.mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatal("data never got to where zeros are written")
		}
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	again, err := reopen(mem.CrashClone(vfs.CrashCloneCfg{}), w.clone(), w.rng, false)
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, again.l)
	mustClose(t, w.l)
	if err := w.l.Sync(context.Background()); err == nil {
		t.Error("sync after close")
	}
}
