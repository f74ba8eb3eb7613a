package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
)

const (
	killRounds  = 4
	killWriters = 8
	killBlocks  = 512 // of each writer
	killAfter   = 3000
)

// TestWhatWasAnsweredSurvivesAKill kills the server under load, without a
// flush, again and again: every write that was answered must be there, and the
// one that was not may be.
func TestWhatWasAnsweredSurvivesAKill(t *testing.T) {
	dir := filepath.Join(shortDir(t), "data")
	answered := make([]uint64, killWriters*killBlocks)
	attempted := make([]uint64, len(answered))
	for round := range uint64(killRounds) {
		p := startServer(t, command(t, serveArgs(dir)...))
		if round == 0 {
			p.create("v")
		}
		verifyAnswered(t, p, answered, attempted)
		var wg sync.WaitGroup
		var count atomic.Int64
		enough := make(chan struct{})
		for w := range killWriters {
			wg.Add(1)
			go func() {
				defer wg.Done()
				c := p.dial("v")
				defer func() { _ = c.Close() }() // the server is gone by then
				for i := uint64(1); writeNumber(c, w, round<<32|i, answered, attempted); i++ {
					if count.Add(1) == killAfter {
						close(enough)
					}
				}
			}()
		}
		<-enough
		p.end(syscall.SIGKILL)
		wg.Wait()
	}
	p := startServer(t, command(t, serveArgs(dir)...))
	verifyAnswered(t, p, answered, attempted)
}

// writeNumber writes a block that is made from the number, and notes it when it
// is answered. Blocks of a writer take turns, some aligned in pairs.
func writeNumber(c *nbdclient.Conn, writer int, number uint64, answered, attempted []uint64) bool {
	at := writer*killBlocks + int(number*7%killBlocks)
	attempted[at] = number
	if err := c.WriteAt(context.Background(), numbered(number), uint64(at)*block.Size, false); err != nil {
		return false
	}
	answered[at] = number
	return true
}

func numbered(number uint64) []byte {
	return bytes.Repeat(binary.LittleEndian.AppendUint64(nil, number), block.Size/8)
}

func verifyAnswered(t *testing.T, p *process, answered, attempted []uint64) {
	t.Helper()
	c := p.dial("v")
	defer func() { _ = c.Close() }()
	buf := make([]byte, len(answered)*block.Size)
	if err := c.ReadAt(context.Background(), buf, 0); err != nil {
		t.Fatal(err)
	}
	faults := 0
	for i := range answered {
		b := buf[i*block.Size : (i+1)*block.Size]
		got := binary.LittleEndian.Uint64(b)
		if !bytes.Equal(b, numbered(got)) || got != answered[i] && got != attempted[i] {
			if faults++; faults < 5 {
				t.Errorf("block %d: got %x, want %x, which was answered, or %x, which was not", i, got, answered[i], attempted[i])
			}
		}
		answered[i], attempted[i] = got, got
	}
	if faults > 0 {
		t.Fatalf("%d blocks are wrong", faults)
	}
}
