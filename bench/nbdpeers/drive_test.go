package main

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// A reply that is not what was asked for must end a measurement.
func TestReplyIsVerified(t *testing.T) {
	const at = 7 * blockBytes
	for _, c := range []struct {
		name, want string
		spoil      func(b []byte)
	}{
		{"right", "", func([]byte) {}},
		{"magic", "magic", func(b []byte) { b[0]++ }},
		{"cookie", "not in flight", func(b []byte) { b[15]++ }},
		{"slot", "not in flight", func(b []byte) { b[8]++ }},
		{"error", "error 5", func(b []byte) { b[7] = 5 }},
		{"foreign block", "contents of block", func(b []byte) { stamp(b[replyBytes:], 2*at) }},
		{"last byte", "wrong contents", func(b []byte) { b[len(b)-1]++ }},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &drive{l: load{bytes: 2 * blockBytes, depth: 1, connections: 1}, units: 16, random: rand.New(rand.NewPCG(1, 1))}
			s := newStream(d, -1)
			s.issue(0)
			s.queued = 0 // as after it was sent
			s.slots[0].offBytes = at
			b := make([]byte, replyBytes+d.l.bytes)
			be.PutUint32(b, simpleMagic)
			be.PutUint64(b[8:], s.slots[0].cookie)
			paint(b[replyBytes:], at)
			if used, err := s.reply(b[:len(b)-1]); used != 0 || err != nil {
				t.Fatalf("incomplete reply: got %d, %v: want 0, nil", used, err)
			}
			c.spoil(b)
			used, err := s.reply(b)
			switch {
			case c.want == "" && (err != nil || used != len(b)):
				t.Fatalf("got %d, %v: want %d, nil", used, err, len(b))
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Fatalf("got %v: want an error with %q", err, c.want)
			}
		})
	}
}
