package volume

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/slackerd/slacker/block"
	"go.uber.org/zap"
)

// Boot traces (package boottrace) are files beside the store's data, one of each kind
// for each snapshot that has one, named by its base: TRACES/ID.trace and TRACES/ID.files.
// They are hints: not synced, not needed, not in the catalog.
const (
	tracesName = "traces"
	// maxTraceBytes bounds what is read back.
	maxTraceBytes = 64 << 10
)

// TraceKind is what a boot trace is of.
type TraceKind string

// The kinds of boot traces; their files' names end like this.
const (
	TraceOfBlocks TraceKind = ".trace"
	TraceOfFiles  TraceKind = ".files"
)

var traceKinds = []TraceKind{TraceOfBlocks, TraceOfFiles}

func (s *Store) tracePath(id string, kind TraceKind) string {
	return s.o.FS.PathJoin(s.o.Dir, tracesName, id+string(kind))
}

// Trace returns the boot trace of a base, as an Attach named it; nil when there is
// none.
func (s *Store) Trace(id string, kind TraceKind) []byte {
	f, err := s.o.FS.Open(s.tracePath(id, kind))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxTraceBytes+1))
	if err != nil || len(b) > maxTraceBytes {
		return nil
	}
	return b
}

// PutTrace keeps the boot trace of the base of an attachment, instead of the one of
// the kind that it has. Traces of snapshots that are gone are removed.
func (s *Store) PutTrace(_ context.Context, attachmentID, baseID string, kind TraceKind, trace []byte) error {
	if len(trace) > maxTraceBytes {
		return block.Errorf(block.Invalid, "boot trace of %d bytes: want at most %d", len(trace), maxTraceBytes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.baseTarget(attachmentID, baseID); err != nil {
		return err
	}
	dir := s.o.FS.PathJoin(s.o.Dir, tracesName)
	err := s.o.FS.MkdirAll(dir, 0o700)
	if err == nil {
		err = s.writeTrace(s.tracePath(baseID, kind), trace)
	}
	if err != nil {
		return block.Errorf(block.IO, "keep a boot trace: %w", err)
	}
	s.sweepTraces(dir)
	return nil
}

func (s *Store) writeTrace(path string, trace []byte) error {
	f, err := s.o.FS.Create(path+".new", "traces")
	if err != nil {
		return err
	}
	_, err = f.Write(trace)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, s.o.FS.Remove(path+".new"))
	}
	return s.o.FS.Rename(path+".new", path)
}

// sweepTraces removes what belongs to no snapshot.
func (s *Store) sweepTraces(dir string) {
	names, err := s.o.FS.List(dir)
	if err != nil {
		return
	}
	wanted := map[string]bool{}
	for _, v := range s.volumes {
		for _, sn := range v.snaps {
			wanted[s.baseID(sn)] = true
		}
	}
	for _, name := range names {
		for _, kind := range traceKinds {
			if id, ours := strings.CutSuffix(name, string(kind)); ours && !wanted[id] {
				s.removeTrace(id, kind)
			}
		}
	}
}

// dropTraces removes the traces of snapshots that were deleted.
func (s *Store) dropTraces(sns ...*snap) {
	for _, sn := range sns {
		for _, kind := range traceKinds {
			if id := s.baseID(sn); s.Trace(id, kind) != nil {
				s.removeTrace(id, kind)
			}
		}
	}
}

func (s *Store) removeTrace(id string, kind TraceKind) {
	if err := s.o.FS.Remove(s.tracePath(id, kind)); err != nil {
		s.o.Logger.Warn("a boot trace is not removed", zap.String("base", id), zap.Error(err))
	}
}

// ReadBase fills p with runs of the base of an attachment: offset and length in
// bytes of each, in turn, whole blocks, as many as p takes.
func (s *Store) ReadBase(ctx context.Context, attachmentID, baseID string, runs []uint64, p []byte) error {
	base, err := s.openBaseOf(ctx, attachmentID, baseID)
	if err != nil {
		return err
	}
	defer func() { _ = base.Close() }() // never fails
	for ; len(runs) > 1; runs = runs[2:] {
		off, n := runs[0], runs[1]
		if n == 0 || n%block.Size != 0 || off%block.Size != 0 || n > uint64(len(p)) || off > base.d.sizeBytes || n > base.d.sizeBytes-off {
			return block.Errorf(block.Invalid, "read %d bytes at %d of a base of %d: want whole blocks of it, and %d bytes in all", n, off, base.d.sizeBytes, len(p))
		}
		if err := base.d.ReadAt(ctx, p[:n], off); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}
