package gc_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/volume"
)

const (
	stressVolumes = 3
	stressWriters = 2   // of each volume
	stressBlocks  = 400 // of each volume
	stressRounds  = 120 // writes of each writer
)

// mark makes a block that says who wrote it, where, and when.
func mark(b []byte, vol, writer, index, round int) {
	binary.LittleEndian.PutUint64(b, uint64(vol)<<48|uint64(writer)<<40|uint64(index)<<16|uint64(round))
	for i := 8; i < len(b); i += 8 {
		copy(b[i:], b[:8])
	}
}

// unmark wants a whole block of that place and returns its writer and round.
func unmark(b []byte, vol, index int) (writer, round int, err error) {
	w := binary.LittleEndian.Uint64(b)
	for i := 8; i < len(b); i += 8 {
		if binary.LittleEndian.Uint64(b[i:]) != w {
			return 0, 0, fmt.Errorf("block %d is torn", index)
		}
	}
	if w != 0 && (int(w>>48) != vol || int(w>>16&0xffffff) != index) {
		return 0, 0, fmt.Errorf("block %d of volume %d holds block %d of volume %d", index, vol, w>>16&0xffffff, w>>48)
	}
	return int(w >> 40 & 0xff), int(w & 0xffff), nil
}

// TestBesideWriters collects garbage over and over while several goroutines
// write, to blocks of their own and to shared ones, and snapshots and clones come
// and go, and the store is checked. Each block is at the end what was written last (G2).
func TestBesideWriters(t *testing.T) {
	ctx := context.Background()
	s := open(t, vfs.NewMem())
	for v := range stressVolumes {
		must[volume.Info](t)(s.Create(ctx, fmt.Sprint("v", v), stressBlocks*block.Size))
	}
	var writers, others sync.WaitGroup
	var done atomic.Bool
	last := [stressVolumes][stressWriters][stressBlocks]int{}
	for v := range stressVolumes {
		for w := range stressWriters {
			writers.Go(func() { last[v][w] = stressWriter(t, s, v, w) })
		}
	}
	loop := func(fn func(i int) error) {
		others.Go(func() {
			for i := 0; !done.Load(); i++ {
				if err := fn(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	loop(func(int) error { collect(t, s); return nil })
	loop(func(i int) error { return stressSnapshot(s, fmt.Sprint("v", i%stressVolumes), i) })
	loop(func(int) error {
		damages, err := s.Check(ctx, true, nil)
		for _, d := range damages {
			t.Errorf("checked beside writers: %v", d)
		}
		return err
	})
	writers.Wait()
	done.Store(true)
	others.Wait()
	verifyStress(t, s, &last)
	collect(t, s)
	verifyStress(t, s, &last)
	noDamage(t, s)
}

// stressWriter writes to its half of a volume and to the shared first blocks,
// and returns in which round it wrote each block last.
func stressWriter(t *testing.T, s *volume.Store, v, w int) (last [stressBlocks]int) {
	ctx := context.Background()
	d, err := s.Open(ctx, fmt.Sprint("v", v), "test", nil)
	if err != nil {
		t.Error(err)
		return last
	}
	defer func() { _ = d.Close() }()
	r := rand.New(rand.NewPCG(uint64(v), uint64(w)))
	for round := 1; round <= stressRounds; round++ {
		n := 1 + r.IntN(16)
		first := 100 + w*150 + r.IntN(150-n) // its own
		if r.IntN(4) == 0 {
			first = r.IntN(100 - n) // everybody's
		}
		buf := make([]byte, n*block.Size)
		for i := range n {
			mark(buf[i*block.Size:(i+1)*block.Size], v, w, first+i, round)
			last[first+i] = round
		}
		if err := d.WriteAt(ctx, buf, uint64(first)*block.Size, r.IntN(10) == 0); err != nil {
			t.Error(err)
			return last
		}
	}
	return last
}

// stressSnapshot makes a snapshot and a clone, wants both to be alike, and
// deletes them again.
func stressSnapshot(s *volume.Store, name string, i int) error {
	ctx := context.Background()
	snap, clone := fmt.Sprint("s", i), fmt.Sprint("c", i)
	if _, err := s.Snapshot(ctx, name, snap); err != nil {
		return err
	}
	if _, err := s.Clone(ctx, name, snap, clone); err != nil {
		return err
	}
	var got [2][]byte
	for k, export := range []string{name + "@" + snap, clone} {
		d, err := s.Open(ctx, export, "test", nil)
		if err != nil {
			return err
		}
		got[k] = make([]byte, stressBlocks*block.Size)
		err = d.ReadAt(ctx, got[k], 0)
		_ = d.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", export, err)
		}
	}
	if string(got[0]) != string(got[1]) {
		return fmt.Errorf("%s@%s and its clone differ", name, snap)
	}
	if err := s.DeleteSnapshot(ctx, name, snap); err != nil {
		return err
	}
	_, err := s.Delete(ctx, clone, false)
	return err
}

func verifyStress(t *testing.T, s *volume.Store, last *[stressVolumes][stressWriters][stressBlocks]int) {
	t.Helper()
	b := make([]byte, block.Size)
	for v := range stressVolumes {
		d := must[*volume.Device](t)(s.Open(context.Background(), fmt.Sprint("v", v), "test", nil))
		for i := range stressBlocks {
			mustDo(t, d.ReadAt(context.Background(), b, uint64(i)*block.Size))
			w, round, err := unmark(b, v, i)
			if err != nil {
				t.Fatal(err)
			}
			if w >= stressWriters || round != last[v][w][i] || round == 0 && last[v][0][i]+last[v][1][i] > 0 {
				t.Errorf("volume %d block %d is of round %d of writer %d, want its last, %d", v, i, round, w, last[v][w][i])
			}
		}
		mustDo(t, d.Close())
	}
}
