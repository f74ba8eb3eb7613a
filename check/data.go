package check

import (
	"context"
	"errors"
	"fmt"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
	"github.com/slackerd/slacker/segment"
)

// readBlocks is how many blocks are read at a time (1 MiB).
const readBlocks = 256

// data reads what the entries name, in order of its place, and notes what does
// not verify.
func (w *walk) data(ctx context.Context, id block.SegmentID, refs []ref) error {
	buf := make([]byte, readBlocks*block.Size)
	for i := 0; i < len(refs); {
		if refs[i].at == 0 { // no address
			i++
			continue
		}
		n := 1
		for i+n < len(refs) && n < readBlocks && refs[i+n].at == refs[i].at+uint32(n) {
			n++
		}
		p := buf[:n*block.Size]
		if err := w.o.Throttle(ctx, len(p)); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		whole := w.o.Log.ReadAt(block.MakeAddr(id, refs[i].at), p) == nil
		for k := range n {
			r, b := &refs[i+k], p[k*block.Size:(k+1)*block.Size]
			if bad := w.read(cow.Entry{Addr: block.MakeAddr(id, r.at), Sum: r.sum}, r.index, b, whole); bad != "" && r.bad == "" {
				r.kind, r.bad = Data, bad
			}
		}
		i += n
	}
	return nil
}

// read says what is wrong with one block; b holds it if it is read already.
func (w *walk) read(e cow.Entry, i block.Index, b []byte, isRead bool) string {
	if !isRead {
		if err := w.o.Log.ReadAt(e.Addr, b); err != nil {
			return err.Error()
		}
	}
	if got := block.Checksum(i, b); got != e.Sum {
		return fmt.Sprintf("its bytes at %v have checksum %08x, want %08x", e.Addr, got, e.Sum)
	}
	return ""
}

// settle looks again at the entries that something is wrong with, and reports
// what still is.
func (w *walk) settle(ctx context.Context, id block.SegmentID, refs []ref) error {
	var bad []ref
	flushed := false
	for _, r := range refs {
		if r.bad == "" {
			continue
		}
		if !flushed {
			flushed = true
			if err := w.o.Flush(ctx); err != nil {
				return block.Wrap(block.IO, err, "check")
			}
		}
		still, err := w.again(ctx, &r, cow.Entry{Addr: block.MakeAddr(id, r.at), Sum: r.sum})
		if err != nil {
			return err
		}
		if still {
			bad = append(bad, r)
		}
	}
	for len(bad) > 0 {
		n := 1
		for n < len(bad) && follows(bad[n-1], bad[n]) {
			n++
		}
		w.reportRun(bad[:n])
		bad = bad[n:]
	}
	return nil
}

func follows(a, b ref) bool {
	return a.kind == b.kind && a.layer == b.layer && b.index == a.index+1 && uint64(b.index)%cow.PageBlocks != 0
}

// reportRun reports blocks that follow on one another, by who sees them.
func (w *walk) reportRun(rs []ref) {
	names := w.forest.see(rs[0].layer, rs[0].index)
	n := 1
	for n < len(rs) && fmt.Sprint(w.forest.see(rs[n].layer, rs[n].index)) == fmt.Sprint(names) {
		n++
	}
	object := fmt.Sprintf("layer %d block %d", rs[0].layer, rs[0].index)
	if n > 1 {
		object = fmt.Sprintf("layer %d blocks %d to %d", rs[0].layer, rs[0].index, rs[n-1].index)
	}
	w.report(rs[0].kind, object, names, "block %d (byte %d of the volume): %s", rs[0].index, uint64(rs[0].index)*block.Size, rs[0].bad)
	if n < len(rs) {
		w.reportRun(rs[n:])
	}
}

// again looks at the block as the map has it now. When it is somewhere else by
// now, that place counts, and it is read in any case. The cleaner may be ahead
// again, hence the loop; it ends with the last place.
func (w *walk) again(ctx context.Context, r *ref, was cow.Entry) (bool, error) {
	b := make([]byte, block.Size)
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		e, l, err := w.o.Tree.Own(r.layer, r.index)
		if err != nil {
			r.kind, r.bad = Map, err.Error()
			return true, nil
		}
		if l == nil || !e.IsData() {
			return false, nil // overwritten, or deleted
		}
		if e == was {
			r.bad = segment.FileName(e.Addr.Segment()) + ": " + r.bad
			return true, nil
		}
		err = w.o.Log.ReadAt(e.Addr, b)
		if err == nil && block.Checksum(r.index, b) == e.Sum {
			return false, nil
		}
		r.kind, r.bad, was = Data, fmt.Sprintf("its bytes at %v do not verify", e.Addr), e
		if err != nil && !errors.Is(err, segment.ErrGone) {
			r.bad = err.Error()
		}
		if err := w.o.Flush(ctx); err != nil {
			return false, block.Wrap(block.IO, err, "check")
		}
	}
}
