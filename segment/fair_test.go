package segment

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/slackerd/slacker/block"
)

// TestAppendersAwaitFlush: while a client waits for a sync, appenders of data come
// so far and no farther until its round is over (S14), and records without payload
// as far as they like; a sync in the background holds nobody up.
func TestAppendersAwaitFlush(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name   string
		sync   func(*Log) error
		blocks int64 // that are appended during the round
	}{
		{"flush", func(l *Log) error { return l.Sync(ctx) }, fairBlocks},
		{"background", func(l *Log) error { return l.SyncBehind(ctx) }, 2 * fairBlocks},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var hold atomic.Bool
				release := make(chan struct{})
				fs := &opFS{FS: vfs.NewCrashableMem(), before: func(_ int, op, _ string) error {
					if op == "syncdata" && hold.Load() {
						<-release
					}
					return nil
				}}
				l, _ := replayed(t, fs, Pos{}, 0)
				data := make([]byte, block.Size)
				data[0] = 1
				put := func(kind Kind, data []byte) {
					if _, err := l.Append(Record{Kind: kind, Layer: 1, Count: 1}, data, nil); err != nil {
						t.Error(err)
					}
				}
				put(Data, data)
				hold.Store(true)
				var synced atomic.Bool
				go func() {
					if err := c.sync(l); err != nil {
						t.Error(err)
					}
					synced.Store(true)
				}()
				synctest.Wait()
				var blocks, zeros atomic.Int64
				go func() {
					for range 2 * fairBlocks {
						put(Data, data)
						blocks.Add(1)
					}
				}()
				synctest.Wait()
				go func() { put(Zero, nil); zeros.Add(1) }()
				synctest.Wait()
				if blocks.Load() != c.blocks || zeros.Load() != 1 || synced.Load() {
					t.Errorf("%d blocks and %d records without were appended during the round, over: %t; want %d and 1", blocks.Load(), zeros.Load(), synced.Load(), c.blocks)
				}
				hold.Store(false)
				close(release)
				synctest.Wait()
				if blocks.Load() != 2*fairBlocks || !synced.Load() {
					t.Errorf("%d blocks were appended in the end, synced: %t: want all", blocks.Load(), synced.Load())
				}
				mustClose(t, l)
			})
		})
	}
}
