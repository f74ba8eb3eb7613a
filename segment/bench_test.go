package segment

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/slackerd/slacker/block"
)

func benchLog(b *testing.B, segBytes int64, mode zeroMode) *Log {
	b.Helper()
	l, err := Open(Options{FS: vfs.Default, Dir: b.TempDir(), SegmentBytes: segBytes, zeroAhead: mode})
	if err != nil {
		b.Fatal(err)
	}
	if _, _, err := l.Replay(context.Background(), Pos{}, 0, nil); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	})
	return l
}

func mustAppend(b *testing.B, l *Log, i int, data []byte) block.Addr {
	rec, err := l.Append(Record{Kind: Data, Layer: 1, First: block.Index(i & 0xffff), Count: uint32(len(data) / block.Size)}, data, nil)
	if err != nil {
		b.Fatal(err)
	}
	return rec.Addr
}

// trim deletes what is behind, so that a benchmark does not fill the disk.
func trim(b *testing.B, l *Log) {
	for _, s := range l.Segments() {
		if !s.Active && l.DiskBytes() > 1<<30 {
			if err := l.Delete(s.ID); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkAppend4k(b *testing.B) {
	l := benchLog(b, 0, zeroAuto)
	data := make([]byte, block.Size)
	b.SetBytes(block.Size)
	for i := 0; b.Loop(); i++ {
		mustAppend(b, l, i, data)
		if i%65536 == 65535 {
			trim(b, l)
		}
	}
}

func BenchmarkAppend1M(b *testing.B) {
	l := benchLog(b, 0, zeroAuto)
	data := make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	for i := 0; b.Loop(); i++ {
		mustAppend(b, l, i, data)
		if i%256 == 255 {
			trim(b, l)
		}
	}
}

func BenchmarkAppendSync(b *testing.B) {
	for _, kb := range []int{4, 16, 64, 256, 1024} {
		for _, mode := range []zeroMode{zeroNever, zeroAlways} {
			b.Run(fmt.Sprintf("%dk/ahead=%v", kb, mode == zeroAlways), func(b *testing.B) {
				l := benchLog(b, 0, mode)
				data := make([]byte, kb<<10)
				b.SetBytes(int64(len(data)))
				for i := 0; b.Loop(); i++ {
					mustAppend(b, l, i, data)
					if err := l.Sync(context.Background()); err != nil {
						b.Fatal(err)
					}
					if i%1024 == 1023 {
						trim(b, l)
					}
				}
			})
		}
	}
}

func BenchmarkAppendSync16(b *testing.B) {
	l := benchLog(b, 0, zeroAuto)
	b.SetParallelism(8)
	var n atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		data := make([]byte, block.Size)
		for pb.Next() {
			if _, err := l.Append(Record{Kind: Data, Layer: 1, First: block.Index(n.Add(1) & 0xffff), Count: 1}, data, nil); err != nil {
				b.Error(err)
				return
			}
			if err := l.Sync(context.Background()); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkRead4k(b *testing.B) {
	l := benchLog(b, 0, zeroAuto)
	data := make([]byte, block.Size)
	var addrs []block.Addr
	for i := range 8192 {
		addrs = append(addrs, mustAppend(b, l, i, data))
	}
	if err := l.Sync(context.Background()); err != nil {
		b.Fatal(err)
	}
	b.Run("ReadAt", func(b *testing.B) {
		for b.Loop() {
			if err := l.ReadAt(addrs[rand.IntN(len(addrs))], data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ReadNow", func(b *testing.B) {
		for b.Loop() {
			if ok, err := l.ReadNow(addrs[rand.IntN(len(addrs))], data); err != nil || !ok {
				b.Fatal(ok, err)
			}
		}
	})
}
