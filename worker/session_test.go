package worker

import (
	"testing"
	"time"

	"go.uber.org/zap"
)

// TestSessionTimeouts: no attempt to connect outlasts the request timeout. One
// that an outage has swallowed would hold up the requests of its slot.
func TestSessionTimeouts(t *testing.T) {
	for seconds, want := range map[int]time.Duration{2: 2 * time.Second, 15: 10 * time.Second} {
		r := &running{state: &state{Connections: 4, RequestSeconds: seconds, DeadSeconds: 60}}
		o := r.sessionOptions(zap.NewNop())
		if o.Conn.DialTimeout != want || o.Conn.StallTimeout != 2*time.Duration(seconds)*time.Second {
			t.Errorf("request timeout %d s: connecting may take %v, no answer %v; want %v and twice the timeout", seconds, o.Conn.DialTimeout, o.Conn.StallTimeout, want)
		}
	}
}
