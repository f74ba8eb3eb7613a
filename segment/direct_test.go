package segment

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/slackerd/slacker/block"
)

// heldFS holds back the first write after hold is set until release is closed,
// and counts those that come meanwhile.
type heldFS struct {
	opFS
	mu         sync.Mutex
	hold, held bool
	release    chan struct{}
	overtook   []string
}

func (h *heldFS) write(_ int, op, _ string) error {
	h.mu.Lock()
	if h.held {
		h.overtook = append(h.overtook, op)
	}
	wait := h.hold && op == "write"
	if wait {
		h.hold, h.held = false, true
	}
	h.mu.Unlock()
	if wait {
		<-h.release
		h.mu.Lock()
		h.held = false
		h.mu.Unlock()
	}
	return nil
}

// TestHeaderAwaitsPayload: while payload is on its way to the file, neither
// Settle nor Sync writes a header that speaks of it (S12), also when the chunk was
// closed meanwhile, and neither returns to somebody who came after it.
func TestHeaderAwaitsPayload(t *testing.T) {
	ctx := context.Background()
	for name, after := range map[string]func(*Log) error{
		"settle": func(l *Log) error { return l.Settle() },
		"sync":   func(l *Log) error { return l.Sync(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fs := &heldFS{opFS: opFS{FS: vfs.NewCrashableMem()}, release: make(chan struct{})}
				fs.before = fs.write
				l, _ := replayed(t, fs, Pos{}, 0)
				put := func(kind Kind, count uint32) {
					var data []byte
					if kind == Data {
						data = make([]byte, int(count)*block.Size)
						data[0] = 1
					}
					if _, err := l.Append(Record{Kind: kind, Layer: 1, Count: count}, data, nil); err != nil {
						t.Error(err)
					}
				}
				put(Data, 1)
				if err := l.Sync(ctx); err != nil {
					t.Fatal(err)
				}
				fs.hold = true
				var returned atomic.Int32
				go func() { put(Data, directBlocks); returned.Add(1) }()
				synctest.Wait()
				go func() {
					put(Zero, 1)
					if err := after(l); err != nil {
						t.Error(err)
					}
					returned.Add(1)
				}()
				synctest.Wait()
				if returned.Load() != 0 || len(fs.overtook) != 0 {
					t.Errorf("while a payload is being written, %d calls returned and the log did %v: want none", returned.Load(), fs.overtook)
				}
				close(fs.release)
				synctest.Wait()
				if returned.Load() != 2 {
					t.Errorf("%d calls returned: want both", returned.Load())
				}
				mustClose(t, l)
			})
		})
	}
}
