package image

import (
	"context"
	"errors"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/slackerd/slacker/block"
)

const (
	// chunkBytes is the most that one request carries.
	chunkBytes = 1 << 20
	// copiers is how many requests are in flight.
	copiers = 8
)

// content is a source seen as a block device.
type content interface {
	sizeBytes() uint64
	// nextData returns the first run at or after offBytes that may hold data,
	// as a half-open range; both ends are sizeBytes when there is none. It is
	// called by one goroutine, with 0 and then with the end it returned before,
	// rounded up to a whole block.
	nextData(offBytes uint64) (start, end uint64, err error)
	// readAt fills p, which lies within sizeBytes, or fails. Many goroutines
	// call it.
	readAt(p []byte, offBytes uint64) error
	close() error
}

// meter counts bytes for Progress, from many goroutines.
type meter struct {
	mu          sync.Mutex
	phase       string
	done, total uint64
	progress    Progress
}

func (m *meter) add(n uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done = min(m.done+n, m.total)
	m.progress(m.phase, m.done, m.total)
}

// chunk is a part of a content or device, of at most chunkBytes.
type chunk struct {
	offBytes    uint64
	lengthBytes int
}

// writeContent writes what is not zero in src to dev, with several requests in
// flight, and returns how many bytes that was. src starts at offset 0 of dev,
// which reads as zeroes so far; its end is padded with zeroes to a whole block.
func writeContent(ctx context.Context, dev device, src content, progress Progress) (uint64, error) {
	m := &meter{phase: PhaseWrite, total: src.sizeBytes(), progress: progress}
	m.add(0)
	var mu sync.Mutex
	var written uint64
	err := inChunks(ctx, src.sizeBytes(), src.nextData, m, func(ctx context.Context, c chunk, buf []byte) error {
		if err := src.readAt(buf[:c.lengthBytes], c.offBytes); err != nil {
			return err
		}
		whole := (c.lengthBytes + block.Size - 1) / block.Size * block.Size
		clear(buf[c.lengthBytes:whole])
		n, err := writeNonZero(ctx, dev, buf[:whole], c.offBytes)
		mu.Lock()
		written += n
		mu.Unlock()
		return err
	})
	return written, err
}

// inChunks walks the runs of data that next finds up to sizeBytes, and has
// several goroutines do them chunk by chunk, each with its own buffer of
// chunkBytes. It ends at the first error.
func inChunks(ctx context.Context, sizeBytes uint64, next func(uint64) (uint64, uint64, error), m *meter,
	do func(context.Context, chunk, []byte) error) error {
	g, gctx := errgroup.WithContext(ctx)
	chunks := make(chan chunk)
	g.Go(func() error {
		defer close(chunks)
		return findChunks(gctx, sizeBytes, next, m, chunks)
	})
	for range copiers {
		g.Go(func() error {
			buf := make([]byte, chunkBytes)
			for c := range chunks {
				if err := do(gctx, c, buf); err != nil {
					return err
				}
				m.add(uint64(c.lengthBytes))
			}
			return nil
		})
	}
	return g.Wait()
}

// findChunks cuts the runs that next finds, widened to whole blocks, into chunks
// that do not cross a multiple of chunkBytes.
func findChunks(ctx context.Context, sizeBytes uint64, next func(uint64) (uint64, uint64, error), m *meter, chunks chan<- chunk) error {
	for off := uint64(0); off < sizeBytes; {
		start, end, err := next(off)
		if err != nil {
			return err
		}
		if start < off || end < start || end > sizeBytes || start == end && start < sizeBytes {
			return block.Errorf(block.Internal, "data after %d: found [%d, %d) of %d bytes", off, start, end, sizeBytes)
		}
		// File systems may have smaller blocks than ours.
		start = max(off, start/block.Size*block.Size)
		end = min(sizeBytes, (end+block.Size-1)/block.Size*block.Size)
		m.add(start - off)
		for start < end {
			n := min(end-start, chunkBytes-start%chunkBytes)
			select {
			case chunks <- chunk{start, int(n)}:
			case <-ctx.Done():
				return ctx.Err()
			}
			start += n
		}
		off = end
	}
	return nil
}

// nonZeroRuns calls do for each run of blocks of p that are not all zero. The
// last block may be short.
func nonZeroRuns(p []byte, do func(start, end int) error) error {
	for i := 0; i < len(p); {
		n := min(block.Size, len(p)-i)
		if block.IsZero(p[i : i+n]) {
			i += n
			continue
		}
		start := i
		for i < len(p) && !block.IsZero(p[i:i+n]) {
			i += n
			n = min(block.Size, len(p)-i)
		}
		if err := do(start, i); err != nil {
			return err
		}
	}
	return nil
}

// writeNonZero writes the runs of blocks of p that are not zero.
func writeNonZero(ctx context.Context, dev device, p []byte, offBytes uint64) (written uint64, err error) {
	err = nonZeroRuns(p, func(start, end int) error {
		if err := dev.WriteAt(ctx, p[start:end], offBytes+uint64(start), false); err != nil {
			return err
		}
		written += uint64(end - start)
		return nil
	})
	return written, err
}

// readFull is readAt for sources that are an io.ReaderAt.
func readFull(r io.ReaderAt, p []byte, offBytes uint64, name string) error {
	n, err := r.ReadAt(p, int64(offBytes))
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return block.Errorf(block.Corrupt, "%s ends early: want %d bytes at offset %d, got %d", name, len(p), offBytes, n)
	}
	return block.Errorf(block.IO, "read %d bytes at offset %d of %s: %w", len(p), offBytes, name, err)
}
