package image

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

const (
	// minFreeBytes is what an import leaves free where it puts temporary files.
	minFreeBytes = 256 << 20
	// freeCheckBytes is how much is written between two looks at that.
	freeCheckBytes = 64 << 20
)

// workspace is the temporary directory of one import, and its progress. The
// directory is made when it is first needed.
type workspace struct {
	parent   string
	dir      string
	progress Progress
}

func newWorkspace(parent string, progress Progress) (*workspace, error) {
	if parent == "" {
		parent = os.TempDir()
	}
	st, err := os.Stat(parent)
	if err != nil {
		return nil, openError(parent, err)
	}
	if !st.IsDir() {
		return nil, block.Errorf(block.Invalid, "directory for temporary files: %s is a %s", parent, kindOfFile(st.Mode()))
	}
	return &workspace{parent: parent, progress: serialize(progress)}, nil
}

// serialize makes progress callable by many goroutines, and never nil.
func serialize(progress Progress) Progress {
	if progress == nil {
		return func(string, uint64, uint64) {}
	}
	var mu sync.Mutex
	return func(phase string, done, total uint64) {
		mu.Lock()
		defer mu.Unlock()
		progress(phase, done, total)
	}
}

// path returns where to put the temporary file or directory of that name.
func (w *workspace) path(name string) (string, error) {
	if w.dir == "" {
		dir, err := os.MkdirTemp(w.parent, "slacker-import-")
		if err != nil {
			return "", openError(w.parent, err)
		}
		w.dir = dir
	}
	return filepath.Join(w.dir, name), nil
}

// close removes everything.
func (w *workspace) close() error {
	if w.dir == "" {
		return nil
	}
	if err := os.RemoveAll(w.dir); err != nil {
		return block.Errorf(block.IO, "remove temporary files: %w", err)
	}
	return nil
}

// spoolStdin copies standard input into a temporary file when source is "-",
// and returns the path to read.
func (w *workspace) spoolStdin(ctx context.Context, source string) (string, error) {
	if source != "-" {
		return source, nil
	}
	return w.spool(ctx, os.Stdin, "stdin", "standard input")
}

// spool copies r into a temporary file with holes for its zeroes.
func (w *workspace) spool(ctx context.Context, r io.Reader, name, what string) (path string, err error) {
	path, err = w.path(name)
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", openError(path, err)
	}
	defer func() {
		if closeErr := f.Close(); err == nil && closeErr != nil {
			err = block.Errorf(block.IO, "write %s: %w", path, closeErr)
		}
	}()
	sw := &sparseWriter{f: f, guard: w.guard()}
	counted := &countingReader{r: r, ctx: ctx, progress: w.progress, phase: PhaseRead}
	if _, err := io.CopyBuffer(onlyWriter{sw}, counted, make([]byte, chunkBytes)); err != nil {
		return "", block.Wrap(block.IO, err, "read "+what)
	}
	return path, sw.finish()
}

// guard watches the room left for temporary files.
func (w *workspace) guard() *spaceGuard { return &spaceGuard{dir: w.dir} }

// spaceGuard refuses to fill a file system to the brim, and to write more than
// can be of use.
type spaceGuard struct {
	dir    string
	since  uint64 // written since the last look
	total  uint64
	limit  uint64 // 0: none
	object string // what has the limit, for the message
}

func (g *spaceGuard) wrote(n int) error {
	if g.total += uint64(n); g.limit > 0 && g.total > g.limit {
		return block.Errorf(block.Invalid, "the files do not fit in %s: want a larger size", g.object)
	}
	if g.since += uint64(n); g.since < freeCheckBytes {
		return nil
	}
	g.since = 0
	return g.check()
}

func (g *spaceGuard) check() error {
	var st unix.Statfs_t
	if err := unix.Statfs(g.dir, &st); err != nil {
		return block.Errorf(block.IO, "free space of %s: %w", g.dir, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < minFreeBytes {
		return block.Errorf(block.NoSpace, "temporary files: %s has %d bytes free, want %d left free: give a directory with more room",
			filepath.Dir(g.dir), free, uint64(minFreeBytes))
	}
	return nil
}

// sparseWriter writes to a new file and leaves holes for blocks of zeroes.
type sparseWriter struct {
	f     *os.File
	off   int64
	guard *spaceGuard
}

// onlyWriter hides other methods, so that io.CopyBuffer uses its buffer.
type onlyWriter struct{ io.Writer }

func (s *sparseWriter) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		// Up to the next block boundary of the file, then run by run.
		n := min(len(p)-done, block.Size-int(s.off%block.Size))
		part := p[done : done+n]
		if !block.IsZero(part) {
			for done+n < len(p) {
				more := min(len(p)-done-n, block.Size)
				if block.IsZero(p[done+n : done+n+more]) {
					break
				}
				n += more
			}
			part = p[done : done+n]
			if _, err := s.f.WriteAt(part, s.off); err != nil {
				return done, writeError(s.f.Name(), err)
			}
			if err := s.guard.wrote(n); err != nil {
				return done, err
			}
		}
		done += n
		s.off += int64(n)
	}
	return len(p), nil
}

// finish gives the file its length, since its end may be a hole.
func (s *sparseWriter) finish() error {
	if err := s.f.Truncate(s.off); err != nil {
		return writeError(s.f.Name(), err)
	}
	return nil
}

// writeError gives an error of writing a file its kind.
func writeError(path string, err error) error {
	kind := block.IO
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
		kind = block.NoSpace
	}
	return block.Errorf(kind, "write %s: %w", path, err)
}

// countingReader tells of progress, and ends when its context does.
type countingReader struct {
	r           io.Reader
	ctx         context.Context
	progress    Progress
	phase       string
	done, total uint64
}

func (c *countingReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.done += uint64(n)
	c.progress(c.phase, c.done, c.total)
	return n, err
}

func unknownFormat(doing, got string, want []string) error {
	if slices.Contains(want, got) {
		return block.Errorf(block.Invalid, "%s: format %q does not suit this source", doing, got)
	}
	return block.Errorf(block.Invalid, "%s: no format %q: want one of %s", doing, got, strings.Join(want, ", "))
}
