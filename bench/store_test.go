package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/volume"
)

const gib = 1 << 30

func open(b *testing.B) *volume.Store {
	b.Helper()
	s, err := volume.Open(volume.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ok(b, s.Close()) })
	return s
}

func ok(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func device(b *testing.B, s *volume.Store, name string) *volume.Device {
	b.Helper()
	d, err := s.Open(context.Background(), name, "bench", nil)
	ok(b, err)
	b.Cleanup(func() { ok(b, d.Close()) })
	return d
}

// scatter writes n single blocks at random places, so that the map has about
// as many extents.
func scatter(b *testing.B, d *volume.Device, n int) {
	b.Helper()
	buf := make([]byte, block.Size)
	r := rand.New(rand.NewPCG(1, 2))
	blocks := int64(d.Info().SizeBytes / block.Size)
	for i := range n {
		buf[0], buf[1], buf[2], buf[3] = byte(i), byte(i>>8), byte(i>>16), 1
		ok(b, d.WriteAt(context.Background(), buf, uint64(r.Int64N(blocks))*block.Size, false))
	}
	ok(b, d.Flush(context.Background()))
}

// base makes the volume "base" with a map of n extents and a snapshot of it.
func base(b *testing.B, s *volume.Store, sizeBytes uint64, extents int) {
	b.Helper()
	ctx := context.Background()
	_, err := s.Create(ctx, "base", sizeBytes)
	ok(b, err)
	d, err := s.Open(ctx, "base", "bench", nil)
	ok(b, err)
	scatter(b, d, extents)
	ok(b, d.Close())
	_, err = s.Snapshot(ctx, "base", "s")
	ok(b, err)
}

func BenchmarkClone(b *testing.B) {
	for _, c := range []struct {
		size    uint64
		extents int
	}{{gib, 10}, {64 * gib, 10_000}, {16 << 40, 300_000}} {
		b.Run(fmt.Sprintf("size=%dGiB/extents=%d", c.size/gib, c.extents), func(b *testing.B) {
			s := open(b)
			base(b, s, c.size, c.extents)
			for i := 0; b.Loop(); i++ {
				_, err := s.Clone(context.Background(), "base", "s", fmt.Sprintf("clone%d", i))
				ok(b, err)
			}
		})
	}
}

func BenchmarkSnapshot(b *testing.B) {
	for _, depth := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("depth=%d", depth), func(b *testing.B) {
			s := open(b)
			deep(b, s, depth)
			for i := 0; b.Loop(); i++ {
				_, err := s.Snapshot(context.Background(), "deep", fmt.Sprintf("n%d", i))
				ok(b, err)
			}
		})
	}
}

// deep makes the volume "deep" on a chain of layers, each with a few blocks.
func deep(b *testing.B, s *volume.Store, depth int) {
	b.Helper()
	ctx := context.Background()
	_, err := s.Create(ctx, "deep", gib)
	ok(b, err)
	d := device(b, s, "deep")
	scatter(b, d, 20_000)
	for i := range depth {
		_, err := s.Snapshot(ctx, "deep", fmt.Sprintf("s%d", i))
		ok(b, err)
		buf := make([]byte, block.Size)
		buf[0] = 1
		ok(b, d.WriteAt(ctx, buf, uint64(i)*16*block.Size, false))
	}
}

func BenchmarkRead4k(b *testing.B) {
	for _, depth := range []int{1, 1000} {
		b.Run(fmt.Sprintf("depth=%d", depth), func(b *testing.B) {
			s := open(b)
			deep(b, s, depth)
			d := device(b, s, "deep")
			buf := make([]byte, block.Size)
			r := rand.New(rand.NewPCG(3, 4))
			read := func() { ok(b, d.ReadAt(context.Background(), buf, uint64(r.IntN(gib/block.Size))*block.Size)) }
			for off := uint64(0); off < gib; off += block.Size * 256 {
				ok(b, d.ReadAt(context.Background(), buf, off))
			}
			for b.Loop() {
				read()
			}
		})
	}
}

func BenchmarkWrite4k(b *testing.B) {
	s := open(b)
	ctx := context.Background()
	_, err := s.Create(ctx, "v", gib)
	ok(b, err)
	d := device(b, s, "v")
	buf := make([]byte, block.Size)
	buf[0] = 1
	r := rand.New(rand.NewPCG(3, 4))
	b.SetBytes(block.Size)
	for b.Loop() {
		ok(b, d.WriteAt(ctx, buf, uint64(r.IntN(gib/block.Size))*block.Size, false))
	}
}

func BenchmarkWriteFlush4k(b *testing.B) {
	s := open(b)
	ctx := context.Background()
	_, err := s.Create(ctx, "v", gib)
	ok(b, err)
	d := device(b, s, "v")
	buf := make([]byte, block.Size)
	buf[0] = 1
	r := rand.New(rand.NewPCG(3, 4))
	for b.Loop() {
		ok(b, d.WriteAt(ctx, buf, uint64(r.IntN(gib/block.Size))*block.Size, true))
	}
}
