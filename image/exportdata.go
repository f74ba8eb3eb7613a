package image

import (
	"context"
	"io"
	"sync"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
)

// statusBytes is how much of a device one look at its allocation covers.
const statusBytes = 1 << 30

// allocation walks what a device says about its holes.
type allocation struct {
	ctx     context.Context
	dev     device
	size    uint64
	off     uint64             // where extents begins
	extents []nbdclient.Extent // told by the device and not yet walked
}

// nextData returns the next run that may hold data, as content.nextData does.
func (a *allocation) nextData(offBytes uint64) (start, end uint64, err error) {
	if a.off != offBytes {
		a.off, a.extents = offBytes, nil
	}
	for a.off < a.size {
		if len(a.extents) == 0 {
			if a.extents, err = a.dev.BlockStatus(a.ctx, a.off, min(a.size-a.off, statusBytes)); err != nil {
				return 0, 0, err
			}
			if len(a.extents) == 0 {
				return 0, 0, block.Errorf(block.IO, "allocation at offset %d: the server told nothing", a.off)
			}
		}
		e := a.extents[0]
		if e.LengthBytes == 0 || e.LengthBytes > a.size-a.off {
			return 0, 0, block.Errorf(block.IO, "allocation at offset %d: the server told of %d bytes, want 1 to %d", a.off, e.LengthBytes, a.size-a.off)
		}
		start, a.off, a.extents = a.off, a.off+e.LengthBytes, a.extents[1:]
		if !e.Zero {
			return start, a.off, nil
		}
	}
	return a.size, a.size, nil
}

// readContent copies the data of dev to out, which reads as zeroes, and
// returns how much it read.
func readContent(ctx context.Context, dev device, out io.WriterAt, progress Progress) (read uint64, err error) {
	m := &meter{phase: PhaseExport, total: dev.SizeBytes(), progress: progress}
	m.add(0)
	a := &allocation{ctx: ctx, dev: dev, size: dev.SizeBytes()}
	var mu sync.Mutex
	err = inChunks(ctx, a.size, a.nextData, m, func(ctx context.Context, c chunk, buf []byte) error {
		p := buf[:c.lengthBytes]
		if err := dev.ReadAt(ctx, p, c.offBytes); err != nil {
			return err
		}
		mu.Lock()
		read += uint64(len(p))
		mu.Unlock()
		return saveNonZero(out, p, c.offBytes)
	})
	return read, err
}

// saveNonZero writes the runs of blocks of p that are not zero.
func saveNonZero(out io.WriterAt, p []byte, offBytes uint64) error {
	return nonZeroRuns(p, func(start, end int) error {
		if _, err := out.WriteAt(p[start:end], int64(offBytes)+int64(start)); err != nil {
			return writeError("the exported file", err)
		}
		return nil
	})
}
