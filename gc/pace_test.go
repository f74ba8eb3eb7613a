package gc

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/segment"
)

// logOnly is a store of which only the log is asked.
type logOnly struct {
	Store
	log *segment.Log
}

func (s logOnly) Log() *segment.Log { return s.log }

// TestPacer: the collector rests while clients ask for something, less when room
// is short, and not at all when nobody asks or a writer waits (G4).
func TestPacer(t *testing.T) {
	const mib = 1 << 20
	fs := vfs.NewMem()
	if err := fs.MkdirAll("log", 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := segment.Open(segment.Options{FS: fs, Dir: "log", SegmentBytes: mib, Reserve: 10 * mib})
	if err != nil {
		t.Fatal(err)
	}
	asked := uint64(0)
	c := New(logOnly{log: log}, Options{Foreground: func() uint64 { return asked }})
	p := &pacer{c: c, last: time.Now()}
	const took = 10 * time.Millisecond
	for _, r := range []struct {
		what        string
		freeMiB     uint64
		asks        uint64
		waiting     int32
		want        time.Duration
		wantPressed bool
	}{
		{"clients work, plenty of room", 500, 1, 0, restShare * took, false},
		{"clients rest", 500, 0, 0, 0, false},
		{"half of what is low is left", 35, 1, 0, restShare * took / 2, true},
		{"only the reserve is left", 10, 1, 0, 0, true},
		{"a writer waits", 500, 1, 1, 0, false},
	} {
		fs.TestingSetDiskUsage(vfs.DiskUsage{TotalBytes: 1000 * mib, AvailBytes: r.freeMiB * mib})
		asked += r.asks
		c.urgent.Store(r.waiting)
		if got := p.rest(took); got != r.want {
			t.Errorf("%s: rests for %v, want %v", r.what, got, r.want)
		}
		if got := c.pressed(); got != r.wantPressed {
			t.Errorf("%s: pressed is %v", r.what, got)
		}
	}
	asked++
	c.urgent.Store(0)
	if got := p.rest(time.Hour); got != maxRest {
		t.Errorf("after a long step it rests for %v, want %v", got, maxRest)
	}
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.pace(stopped); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
}
