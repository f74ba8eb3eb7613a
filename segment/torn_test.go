package segment

import (
	"testing"
	"time"

	"github.com/slackerd/slacker/block"
)

// TestUnfinishedHeader tells a header that a crash tore from a damaged one (S8).
func TestUnfinishedHeader(t *testing.T) {
	store := [16]byte{1, 2, 3}
	whole := make([]byte, block.Size)
	h := segmentHeader{store: store, id: 7, created: time.Unix(1, 0), first: 5, durable: 4, prev: Pos{Segment: 6, Block: 9}}
	h.encode(whole)
	edit := func(fn func(b []byte)) []byte {
		b := append([]byte(nil), whole...)
		fn(b)
		return b
	}
	for name, c := range map[string]struct {
		b    []byte
		want bool
	}{
		"zeroes":                           {make([]byte, block.Size), true},
		"first sector only":                {edit(func(b []byte) { clear(b[512:]) }), true},
		"last sector only":                 {edit(func(b []byte) { clear(b[:512]) }), true},
		"whole":                            {whole, false},
		"a flipped bit":                    {edit(func(b []byte) { b[48] ^= 1 }), false},
		"a flipped bit in what is zero":    {edit(func(b []byte) { b[2000] ^= 1 }), false},
		"first sector of another segment":  {edit(func(b []byte) { clear(b[512:]); b[32]++ }), false},
		"first sector of another store":    {edit(func(b []byte) { clear(b[512:]); b[16]++ }), false},
		"first sector without its magic":   {edit(func(b []byte) { clear(b[512:]); clear(b[:8]) }), false},
		"last sector with something else":  {edit(func(b []byte) { clear(b[:512]); b[4000] = 1 }), false},
		"a file that is too short for one": {make([]byte, 100), false},
	} {
		if got := unfinishedHeader(c.b, store, 7); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}
