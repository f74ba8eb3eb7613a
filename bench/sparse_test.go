package bench

import (
	"context"
	"fmt"
	"testing"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/volume"
)

// BenchmarkSparse trims, and asks for the allocation of, a volume of 1 TiB with
// one block written, on a chain of 1 and of 1,000 layers.
func BenchmarkSparse(b *testing.B) {
	const tib = 1 << 40
	ctx := context.Background()
	for _, depth := range []int{1, 1000} {
		s := open(b)
		_, err := s.Create(ctx, "v", tib)
		ok(b, err)
		d := device(b, s, "v")
		for i := range depth {
			ok(b, d.WriteAt(ctx, make1(i), 0, false))
			_, err := s.Snapshot(ctx, "v", fmt.Sprint(i))
			ok(b, err)
		}
		b.Run(fmt.Sprintf("trim/depth=%d", depth), func(b *testing.B) {
			for b.Loop() {
				ok(b, d.Trim(ctx, block.Size, tib-block.Size, false))
			}
		})
		b.Run(fmt.Sprintf("status/depth=%d", depth), func(b *testing.B) {
			for b.Loop() {
				es, err := d.Extents(ctx, nil, block.Size, tib-block.Size, 8)
				ok(b, err)
				if want := (volume.Extent{LengthBytes: tib - block.Size, Hole: true, Zero: true}); len(es) != 1 || es[0] != want {
					b.Fatalf("got %v, want %v", es, want)
				}
			}
		})
	}
}

// make1 is a block that is not zero.
func make1(i int) []byte {
	p := make([]byte, block.Size)
	p[0], p[1] = 1, byte(i)
	return p
}
