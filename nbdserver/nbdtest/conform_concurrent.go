package nbdtest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/slackerd/slacker/block"
)

// conformModel runs random operations on two devices against a model.
func conformModel(t *testing.T, o Opener) {
	ds := []dev{open(t, o), open(t, o)}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	u := ds[0].unit()
	model := make([]byte, minConformBytes)
	pick := func() (off, n uint64) {
		limit := uint64(96 << 10)
		if rng.IntN(2) == 0 {
			limit = 9000
		}
		off = rng.Uint64N(uint64(len(model)) / u)
		n = 1 + rng.Uint64N(min(max(limit/u, 1), uint64(len(model))/u-off))
		return off * u, n * u
	}
	for step := range 400 {
		d := ds[rng.IntN(len(ds))]
		off, n := pick()
		var err error
		switch rng.IntN(6) {
		case 0, 1:
			p := pattern(int(n), rng.Uint64())
			copy(model[off:], p)
			err = d.WriteAt(context.Background(), p, off, rng.IntN(8) == 0)
		case 2:
			clear(model[off : off+n])
			err = trim(d, off, n, rng.IntN(8) == 0)
		case 3:
			clear(model[off : off+n])
			err = zeroes(d, off, n, rng.IntN(8) == 0)
		case 4:
			d.want(off, model[off:off+n])
		case 5:
			err = d.Flush(context.Background())
		}
		if err != nil {
			t.Fatalf("step %d at %d+%d: %v", step, off, n, err)
		}
	}
	for _, d := range ds {
		d.want(0, model)
	}
}

// conformConcurrent: goroutines that own neighbouring pieces, not aligned to
// blocks where the device allows that, do not disturb each other.
func conformConcurrent(t *testing.T, o Opener) {
	const workers, rounds = 8, 30
	ds := []dev{open(t, o), open(t, o)}
	piece := max(ds[0].unit(), 1000/ds[0].unit()*ds[0].unit())
	var wg sync.WaitGroup
	for w := range uint64(workers) {
		wg.Go(func() {
			d, off := ds[w%2], w*piece
			for i := range uint64(rounds) {
				want := pattern(int(piece), w<<32|i)
				if err := conformRound(d, ds[(w+i)%2], off, want, i); err != nil {
					t.Errorf("worker %d round %d: %v", w, i, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func conformRound(d, other dev, off uint64, want []byte, i uint64) error {
	ctx := context.Background()
	if err := d.WriteAt(ctx, want, off, i%10 == 9); err != nil {
		return err
	}
	switch i % 4 {
	case 1:
		if err := d.Flush(ctx); err != nil {
			return err
		}
	case 2:
		if err := d.Trim(ctx, off, uint64(len(want)), false); err != nil {
			return err
		}
		clear(want)
	case 3:
		if _, err := d.Extents(ctx, nil, off, uint64(len(want)), 4); err != nil {
			return err
		}
	}
	got := make([]byte, len(want))
	if err := other.ReadAt(ctx, got, off); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("piece at %d does not hold what was written last", off)
	}
	return nil
}

// conformSameBlock: writers of one whole block leave one of their values, and
// readers never see two mixed.
func conformSameBlock(t *testing.T, o Opener) {
	d := open(t, o)
	d.write(0, bytes.Repeat([]byte{1}, block.Size))
	var wg sync.WaitGroup
	for w := range byte(4) {
		wg.Go(func() {
			for i := range byte(40) {
				if err := d.WriteAt(context.Background(), bytes.Repeat([]byte{w*50 + i + 1}, block.Size), 0, false); err != nil {
					t.Error(err)
					return
				}
			}
		})
		wg.Go(func() {
			got := make([]byte, block.Size)
			for range 40 {
				if err := d.ReadAt(context.Background(), got, 0); err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(got, bytes.Repeat(got[:1], block.Size)) {
					t.Error("a read mixes two writes of one block")
					return
				}
			}
		})
	}
	wg.Wait()
}

// conformCancel: a call with a canceled context returns, and the device works
// on.
func conformCancel(t *testing.T, o Opener) {
	d := open(t, o)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	p := pattern(4096, 11)
	for _, err := range []error{d.WriteAt(ctx, p, 0, true), d.Flush(ctx), d.ReadAt(ctx, make([]byte, 4096), 8192), d.Trim(ctx, 4096, 4096, true)} {
		if err != nil {
			t.Logf("canceled: %v", err)
		}
	}
	d.write(0, p)
	d.flush()
	d.want(0, p)
}
