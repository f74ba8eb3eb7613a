package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

const probeBytes = 4096

// prober writes numbered blocks to a file, syncs each, and notes the longest wait.
type prober struct {
	file           *os.File
	count, longest atomic.Int64
	began          atomic.Int64 // of the one that is under way, Unix nanoseconds
	stopped        atomic.Bool
	end            chan error
}

func startProber(path string) (*prober, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // of the guest
	if err != nil {
		return nil, err
	}
	p := &prober{file: f, end: make(chan error, 1)}
	go func() { p.end <- p.work() }()
	return p, nil
}

func numbered(n uint64) []byte {
	return bytes.Repeat(binary.LittleEndian.AppendUint64(nil, n), probeBytes/8)
}

// placeOf is where number n goes: numbers of the last 64 are all there.
func placeOf(n uint64) int64 { return int64(n%64) * probeBytes }

func (p *prober) work() error {
	for n := uint64(1); !p.stopped.Load(); n++ {
		begun := time.Now()
		p.began.Store(begun.UnixNano())
		_, err := p.file.WriteAt(numbered(n), placeOf(n))
		if err == nil {
			err = p.file.Sync()
		}
		if err != nil {
			return err
		}
		p.longest.Store(max(p.longest.Load(), int64(time.Since(begun))))
		p.count.Store(int64(n))
	}
	return nil
}

// report returns what was done and the longest wait since the last report, with
// the one that is under way.
func (p *prober) report() (count int64, longest time.Duration) {
	under := time.Now().UnixNano() - p.began.Load()
	return p.count.Load(), time.Duration(max(p.longest.Swap(0), under))
}

func (p *prober) failed() error {
	select {
	case err := <-p.end:
		p.end <- err
		return fmt.Errorf("the prober ended: %w", err)
	default:
		return nil
	}
}

// stop ends it and reads what must be there, past the cache.
func (p *prober) stop() error {
	p.stopped.Store(true)
	if err := <-p.end; err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return err
	}
	last := uint64(p.count.Load())
	got := make([]byte, probeBytes)
	for n := last - min(63, last-1); n <= last; n++ {
		if _, err := p.file.ReadAt(got, placeOf(n)); err != nil {
			return err
		}
		if !bytes.Equal(got, numbered(n)) {
			return fmt.Errorf("write %d was acknowledged, and the block holds %d", n, binary.LittleEndian.Uint64(got))
		}
	}
	return p.file.Close()
}
