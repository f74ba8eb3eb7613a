package nbdserver_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

const (
	pieceBytes   = 256 << 10
	requestBytes = 28
)

// TestWriteInPieces: of a long payload the device gets what is there, piece by
// piece and in order, and the answer comes after the last; what has to be durable
// or begins within a block it gets as a whole (invariant 10).
func TestWriteInPieces(t *testing.T) {
	for _, tc := range []struct {
		name  string
		flags uint16
		off   uint64
		early int // pieces that are written before the end of the payload comes
	}{
		{"aligned", 0, 8192, 2},
		{"within a block", 0, 8192 + 512, 0},
		{"durable", fFUA, 8192, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newVol()
			seen := make(chan nbdtest.Call, 16)
			m.Hook = func(_ context.Context, c nbdtest.Call) error {
				if c.Op == "WriteAt" {
					seen <- c
				}
				return nil
			}
			p := enter(t, start(t, m), false)
			data := fill(2*pieceBytes+12<<10, 5)
			b := commandBytes(tc.flags, cWrite, 1, tc.off, uint32(len(data)), data)
			p.write(b[:len(b)-1])
			off := tc.off
			for range tc.early {
				if c := <-seen; c.OffBytes != off || c.LengthBytes != pieceBytes {
					t.Errorf("the device got %d bytes at %d: want %d at %d", c.LengthBytes, c.OffBytes, pieceBytes, off)
				}
				off += pieceBytes
			}
			p.write(b[len(b)-1:])
			p.wantSimple(nbdserver.OK, 1)
			if c := <-seen; c.OffBytes != off || c.LengthBytes != tc.off+uint64(len(data))-off || c.FUA != (tc.flags != 0) || len(seen) != 0 {
				t.Errorf("the device got %+v last, and %d more: want %d bytes at %d", c, len(seen), tc.off+uint64(len(data))-off, off)
			}
			p.command(0, cRead, 2, tc.off, uint32(len(data)), nil)
			if !bytes.Equal(p.wantRead(2, len(data)), data) {
				t.Error("what was written reads differently")
			}
		})
	}
}

// TestWriteInPiecesFails: after a piece that fails none is written, the error is
// answered once, and the stream stays in step.
func TestWriteInPiecesFails(t *testing.T) {
	m := newVol()
	written := 0
	m.Hook = func(_ context.Context, c nbdtest.Call) error {
		if c.Op != "WriteAt" {
			return nil
		}
		if written++; c.OffBytes == pieceBytes {
			return block.Errorf(block.NoSpace, "planted")
		}
		return nil
	}
	p := enter(t, start(t, m), false)
	p.command(0, cWrite, 1, 0, 4*pieceBytes, fill(4*pieceBytes, 1))
	p.wantSimple(nbdserver.ENOSPC, 1)
	p.wantAlive(false)
	if written != 2 {
		t.Errorf("the device got %d pieces: want the first and the one that fails", written)
	}
}

// TestWriteInPiecesFenced: a connection that is replaced in the midst of a
// payload writes no further piece (invariant 6).
func TestWriteInPiecesFenced(t *testing.T) {
	m := newVol()
	g := newGate(m, "WriteAt")
	p := enter(t, start(t, m), false)
	p.write(commandBytes(0, cWrite, 1, 0, 2*pieceBytes, fill(2*pieceBytes, 1))[:pieceBytes+requestBytes])
	g.wait(t)
	m.Disconnect(block.Errorf(block.Fenced, "planted"))
	close(g.open)
	p.wantClosed()
	until(t, "the device is closed", func() bool { return m.OpenDevices() == 0 })
	if len(g.entered) != 0 {
		t.Error("a piece was written after the connection was replaced")
	}
}

// TestHeldAnswer: an answer that waits for what comes next to be answered too is
// sent when that is not all there.
func TestHeldAnswer(t *testing.T) {
	const n = 64 << 10
	p := enter(t, start(t, newVol()), false)
	next := commandBytes(0, cWrite, 2, n, n, fill(n, 2))
	for _, sent := range []int{0, 1, requestBytes, requestBytes + 1, len(next) - 1} {
		p.write(cat(commandBytes(0, cWrite, 1, 0, n, fill(n, 1)), next[:sent]))
		p.wantSimple(nbdserver.OK, 1)
		p.write(next[sent:])
		p.wantSimple(nbdserver.OK, 2)
	}
	// Many at once are all answered.
	go func() {
		for range 50 {
			if _, err := p.nc.Write(next); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 50 {
		p.wantSimple(nbdserver.OK, 2)
	}
}
