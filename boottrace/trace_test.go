package boottrace

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/slackerd/slacker/block"
)

func TestRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		var runs []Run
		for range rng.IntN(500) {
			runs = append(runs, Run{rng.Uint64N(maxBlock - 200), 1 + rng.Uint64N(100)})
		}
		got, err := Decode(Encode(runs))
		if err != nil || !slices.Equal(got, runs) {
			t.Fatalf("%d runs became %d, %v", len(runs), len(got), err)
		}
	}
}

// TestLimits: what is too long is cut, what is too large is not read.
func TestLimits(t *testing.T) {
	var many []Run
	for i := range uint64(20000) {
		many = append(many, Run{i * 3 % maxBlock, 1})
	}
	p := Encode(many)
	got, err := Decode(p)
	if err != nil || len(p) > MaxBytes || len(got) < 1000 || !slices.Equal(got, many[:len(got)]) {
		t.Errorf("%d bytes, %d runs, %v", len(p), len(got), err)
	}
	if got, err := Decode(Encode([]Run{{0, MaxBlocks}, {0, 1}})); err != nil || len(got) != 1 {
		t.Errorf("too many blocks: %v, %v", got, err)
	}
	for _, p := range [][]byte{nil, {1}, {1, 0, 0, 0, 0}, make([]byte, MaxBytes+1), Encode(many)[1:]} {
		if _, err := Decode(p); !block.Is(err, block.Invalid) {
			t.Errorf("%d bytes are a trace: %v", len(p), err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode(nil))
	f.Add(Encode([]Run{{5, 3}, {1 << 20, 64}, {0, 1}}))
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) <= MaxBytes-sumBytes { // a sum that is right lets the rest be tried
			p = binary.LittleEndian.AppendUint32(p, crc32.Checksum(p, castagnoli))
		}
		runs, err := Decode(p)
		if err != nil {
			return
		}
		blocks := uint64(0)
		for _, r := range runs {
			if r.Count == 0 || r.First+r.Count > maxBlock {
				t.Fatalf("run %+v", r)
			}
			blocks += r.Count
		}
		if blocks > MaxBlocks {
			t.Fatalf("%d blocks", blocks)
		}
	})
}
