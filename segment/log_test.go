package segment

import (
	"bytes"
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/slackerd/slacker/block"
)

func TestQuick(t *testing.T) {
	fs := vfs.NewCrashableMem()
	o := Options{FS: fs, Dir: "", SegmentBytes: MinSegmentBytes}
	o.Dir = "/"
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if _, _, err := l.Replay(ctx, Pos{}, 0, nil); err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte{7}, 600*block.Size)
	rec, err := l.Append(Record{Kind: Data, Layer: 1, First: 5, Count: 600}, data, func(r Record) { t.Log(r.LSN, r.Addr, r.Count) })
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, block.Size)
	if err := l.ReadAt(rec.Addr, p); err != nil || p[0] != 7 {
		t.Fatal(err)
	}
	if err := l.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	pos, lsn := l.DurablePos()
	t.Log(pos, lsn, l.Segments())
	o.FS = fs.CrashClone(vfs.CrashCloneCfg{})
	m, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	end, next, err := m.Replay(ctx, Pos{}, 1, func(r Record) error { n += int(r.Count); return nil })
	if err != nil || n != 600 || end != pos || next != lsn+1 {
		t.Fatal(err, n, end, next)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
