package segment

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/slackerd/slacker/block"
)

// TestReplayMakesDurable: records that a killed process had written, but not
// synced, are durable once a replay has shown them.
func TestReplayMakesDurable(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewCrashableMem()
	replay := func(fs vfs.FS) (*Log, LSN) {
		t.Helper()
		l := openLog(t, testOptions(fs, false))
		_, next, err := l.Replay(ctx, Pos{}, 1, func(Record) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		return l, next
	}
	killed, _ := replay(mem)
	if _, err := killed.Append(Record{Kind: Data, Layer: 1, Count: 1}, make([]byte, block.Size), nil); err != nil {
		t.Fatal(err)
	}
	killed.mu.Lock()
	killed.closeChunk()
	seq := killed.closedSeq
	killed.mu.Unlock()
	if err := killed.writeOut(seq); err != nil {
		t.Fatal(err)
	}
	restarted, next := replay(mem)
	if next != 2 || restarted.Durable() != 1 {
		t.Fatalf("after the kill: next record %d, durable to %d: want 2, 1", next, restarted.Durable())
	}
	third, next := replay(mem.CrashClone(vfs.CrashCloneCfg{}))
	if next != 2 {
		t.Errorf("after the power cut: next record %d: want 2", next)
	}
	for _, l := range []*Log{third, restarted, killed} {
		mustClose(t, l)
	}
}
