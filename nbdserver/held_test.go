package nbdserver_test

import (
	"testing"

	"github.com/slackerd/slacker/nbdserver"
)

const requestBytes = 28

// TestHeldAnswer: an answer that waits for what comes next to be answered too is
// sent when that is not all there (invariant 10).
func TestHeldAnswer(t *testing.T) {
	for _, n := range []int{64 << 10, 128 << 10} {
		heldAnswer(t, n)
	}
}

func heldAnswer(t *testing.T, n int) {
	p := enter(t, start(t, newVol()), false)
	next := commandBytes(0, cWrite, 2, uint64(n), uint32(n), fill(n, 2))
	for _, sent := range []int{0, 1, requestBytes, requestBytes + 1, len(next) - 1} {
		p.write(cat(commandBytes(0, cWrite, 1, 0, uint32(n), fill(n, 1)), next[:sent]))
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
