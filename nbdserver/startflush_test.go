package nbdserver_test

import (
	"slices"
	"testing"

	"github.com/slackerd/slacker/nbdserver"
)

// TestStartFlush: the device is told of a flush that is to come when one came next
// after the last writes that were answered; once for all of a batch, and not when
// the client has sent more already.
func TestStartFlush(t *testing.T) {
	m := newVol()
	m.Record()
	p := enter(t, start(t, m), false)
	write, flush := commandBytes(0, cWrite, 1, 0, 4, []byte("data")), commandBytes(0, cFlush, 1, 0, 0, nil)
	trim := commandBytes(0, cTrim, 1, 0, 4, nil)
	for _, b := range []struct {
		bytes   []byte
		answers int
	}{{write, 1}, {flush, 1}, {cat(write, write), 2}, {flush, 1}, {write, 1}, {trim, 1}, {write, 1}, {flush, 1}, {cat(write, flush), 2}, {write, 1}, {flush, 1}} {
		p.write(b.bytes)
		for range b.answers {
			p.wantSimple(nbdserver.OK, 1)
		}
	}
	want := []string{"WriteAt", "Flush", "WriteAt", "WriteAt", "StartFlush", "Flush", "WriteAt", "StartFlush", "Trim", "WriteAt", "Flush",
		"WriteAt", "Flush", "WriteAt", "StartFlush", "Flush"}
	var got []string
	for _, c := range m.Calls() {
		got = append(got, c.Op)
	}
	if !slices.Equal(got, want) {
		t.Errorf("calls\n%v, want\n%v", got, want)
	}
}

// TestStartFlushAfterAnswer: what the device does ahead of a flush holds up no
// answer.
func TestStartFlushAfterAnswer(t *testing.T) {
	m := newVol()
	g := newGate(m, "StartFlush")
	p := enter(t, start(t, m), false)
	p.command(0, cWrite, 1, 0, 4, []byte("data"))
	p.wantSimple(nbdserver.OK, 1)
	p.command(0, cFlush, 2, 0, 0, nil)
	p.wantSimple(nbdserver.OK, 2)
	p.command(0, cWrite, 3, 0, 4, []byte("data"))
	g.wait(t)
	p.wantSimple(nbdserver.OK, 3)
	close(g.open)
	p.command(0, cFlush, 4, 0, 0, nil)
	p.wantSimple(nbdserver.OK, 4)
}
