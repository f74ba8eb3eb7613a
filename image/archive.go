package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path"
	"strings"

	"github.com/slackerd/slacker/block"
)

const (
	// maxArchiveEntries bounds the entries of a container image archive.
	maxArchiveEntries = 1 << 16
	// maxDocumentBytes bounds a manifest, an index or a configuration.
	maxDocumentBytes = 8 << 20
	// maxArchiveLinks bounds the links from one entry to the next.
	maxArchiveLinks = 8
)

// archive is a container image as named blobs.
type archive interface {
	// open returns the blob of that name, and its length in bytes.
	open(name string) (io.ReadCloser, int64, error)
	close() error
}

// dirArchive is a directory. Links in it cannot lead out of it.
type dirArchive struct{ root *os.Root }

func openDirArchive(dir string) (archive, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, openError(dir, err)
	}
	return dirArchive{root}, nil
}

func (d dirArchive) close() error { return d.root.Close() }

func (d dirArchive) open(name string) (io.ReadCloser, int64, error) {
	st, err := d.root.Stat(name) // before it is opened, which of a FIFO would wait
	if err != nil {
		return nil, 0, missingBlob(d.root.Name(), name, err)
	}
	if !st.Mode().IsRegular() {
		return nil, 0, block.Errorf(block.Invalid, "%s: %s is a %s: want a file", d.root.Name(), name, kindOfFile(st.Mode()))
	}
	f, err := d.root.Open(name)
	if err != nil {
		return nil, 0, missingBlob(d.root.Name(), name, err)
	}
	return f, st.Size(), nil
}

func missingBlob(archive, name string, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return block.Errorf(block.Corrupt, "%s is not complete: it holds no %s", archive, name)
	}
	return block.Wrap(block.IO, err, archive)
}

// tarArchive is an uncompressed tar file, indexed once.
type tarArchive struct {
	f     *os.File
	name  string
	files map[string]span
	links map[string]string
}

// span is where in a file the bytes of an entry are.
type span struct{ off, length int64 }

// openTarArchive indexes the tar file at path, which is decompressed into the
// workspace first where it is compressed.
func openTarArchive(ctx context.Context, work *workspace, path string) (archive, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	head := make([]byte, 8)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		_ = f.Close()
		return nil, block.Errorf(block.IO, "read %s: %w", path, err)
	}
	if c := sniffCompression(head[:n]); c != compressionNone {
		plain, err := work.spoolPlain(ctx, f, c, path)
		_ = f.Close() // read only
		if err != nil {
			return nil, err
		}
		if f, err = openFile(plain); err != nil {
			return nil, err
		}
	}
	t := &tarArchive{f: f, name: path, files: map[string]span{}, links: map[string]string{}}
	if err := t.index(ctx); err != nil {
		_ = f.Close()
		return nil, err
	}
	return t, nil
}

// spoolPlain decompresses f into a temporary file.
func (w *workspace) spoolPlain(ctx context.Context, f *os.File, c compression, name string) (string, error) {
	plain, err := decompress(ctx, io.NewSectionReader(f, 0, 1<<62), c, name)
	if err != nil {
		return "", err
	}
	defer func() { _ = plain.Close() }() // read only
	return w.spool(ctx, plain, "archive.tar", name)
}

func (t *tarArchive) index(ctx context.Context) error {
	r := io.NewSectionReader(t.f, 0, 1<<62)
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return t.checkEnd(r)
		}
		if err != nil {
			return tarError(err, t.name)
		}
		if n >= maxArchiveEntries {
			return block.Errorf(block.Invalid, "%s has more than %d entries: want a container image archive", t.name, maxArchiveEntries)
		}
		// The reader reads whole blocks and nothing ahead, so that the data
		// begins where it stands now.
		off, err := r.Seek(0, io.SeekCurrent)
		if err != nil {
			return block.Errorf(block.IO, "read %s: %w", t.name, err)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			t.files[name] = span{off, h.Size}
		case tar.TypeLink:
			t.links[name] = path.Clean(h.Linkname)
		case tar.TypeSymlink:
			t.links[name] = path.Join(path.Dir(name), h.Linkname)
		}
	}
}

// checkEnd refuses an archive without the block of zeroes that ends it.
func (t *tarArchive) checkEnd(r io.Seeker) error {
	end, err := r.Seek(0, io.SeekCurrent)
	if err != nil {
		return block.Errorf(block.IO, "read %s: %w", t.name, err)
	}
	last := make([]byte, tarBlockBytes)
	if end >= tarBlockBytes {
		if err := readFull(t.f, last, uint64(end-tarBlockBytes), t.name); err != nil {
			return err
		}
	}
	if end < tarBlockBytes || !block.IsZero(last) {
		return noTrailer(t.name)
	}
	return nil
}

func noTrailer(name string) error {
	return block.Errorf(block.Corrupt, "%s ends early: want the blocks of zeroes that end a tar archive, got the end of the file", name)
}

func (t *tarArchive) close() error { return t.f.Close() }

func (t *tarArchive) open(name string) (io.ReadCloser, int64, error) {
	at := path.Clean(name)
	for range maxArchiveLinks {
		if s, ok := t.files[at]; ok {
			return io.NopCloser(io.NewSectionReader(t.f, s.off, s.length)), s.length, nil
		}
		next, ok := t.links[at]
		if !ok {
			break
		}
		at = next
	}
	return nil, 0, missingBlob(t.name, name, os.ErrNotExist)
}

// readDocument reads a small blob, whose SHA-256 is digest (hex) unless that
// is empty.
func readDocument(a archive, name, digest string) ([]byte, error) {
	r, size, err := a.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // read only
	if size > maxDocumentBytes {
		return nil, block.Errorf(block.Invalid, "%s has %d bytes: want at most %d of a manifest or configuration", name, size, maxDocumentBytes)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxDocumentBytes))
	if err != nil {
		return nil, block.Errorf(block.IO, "read %s: %w", name, err)
	}
	if int64(len(b)) != size {
		return nil, block.Errorf(block.Corrupt, "%s ends early: want %d bytes, got %d", name, size, len(b))
	}
	sum := sha256.Sum256(b)
	if got := hex.EncodeToString(sum[:]); digest != "" && got != digest {
		return nil, digestError(name, digest, got)
	}
	return bytes.TrimSpace(b), nil
}

func digestError(name, want, got string) error {
	return block.Errorf(block.Corrupt, "%s is damaged: want digest sha256:%s, got sha256:%s", name, strings.TrimPrefix(want, "sha256:"), got)
}
