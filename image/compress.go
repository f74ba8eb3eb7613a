package image

import (
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/slackerd/slacker/block"
)

// compression is how a stream is compressed.
type compression string

const (
	compressionNone  compression = ""
	compressionGzip  compression = "gzip"
	compressionBzip2 compression = "bzip2"
	compressionXz    compression = "xz"
	compressionZstd  compression = "zstd"
)

// maxZstdWindowBytes bounds the memory a zstd stream may ask for (zstd --long
// goes up to it).
const maxZstdWindowBytes = 128 << 20

// sniffCompression tells the compression of a stream from its first bytes.
func sniffCompression(head []byte) compression {
	for _, c := range []struct {
		magic string
		is    compression
	}{
		{"\x1f\x8b", compressionGzip}, {"BZh", compressionBzip2},
		{"\xfd7zXZ\x00", compressionXz}, {"\x28\xb5\x2f\xfd", compressionZstd},
	} {
		if bytes.HasPrefix(head, []byte(c.magic)) {
			return c.is
		}
	}
	return compressionNone
}

// decompress returns the plain stream of r. The stream's own checksums are
// verified when it is read to its end; name is for errors.
func decompress(ctx context.Context, r io.Reader, c compression, name string) (io.ReadCloser, error) {
	var plain io.ReadCloser
	var err error
	switch c {
	case compressionNone:
		plain = io.NopCloser(r)
	case compressionGzip:
		plain, err = gzip.NewReader(r)
	case compressionBzip2:
		plain = io.NopCloser(bzip2.NewReader(r))
	case compressionXz:
		plain, err = newXz(ctx, r)
	case compressionZstd:
		var d *zstd.Decoder
		if d, err = zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxZstdWindowBytes), zstd.WithDecoderConcurrency(2)); err == nil {
			plain = d.IOReadCloser()
		}
	}
	if err != nil {
		return nil, block.Wrap(block.Corrupt, err, "decompress "+name+" ("+string(c)+")")
	}
	return &plainStream{plain, c, name}, nil
}

// plainStream gives errors of decompression their kind and place.
type plainStream struct {
	io.ReadCloser
	c    compression
	name string
}

func (p *plainStream) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b)
	if err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.Canceled) || p.c == compressionNone {
		return n, err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return n, block.Errorf(block.Corrupt, "%s ends early: its %s stream is cut short", p.name, p.c)
	}
	return n, block.Wrap(block.Corrupt, err, "decompress "+p.name+" ("+string(p.c)+")")
}

// xz is a running xz program: the format is rare enough here not to carry a
// decoder of its own.
type xz struct {
	io.ReadCloser
	cmd    *exec.Cmd
	cancel context.CancelFunc
	stderr tail
	done   bool
	err    error
}

func newXz(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	tool, err := findTool("xz", "xz-utils")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	x := &xz{cmd: exec.CommandContext(ctx, tool, "-dc"), cancel: cancel}
	x.cmd.Stdin, x.cmd.Stderr, x.cmd.WaitDelay = r, &x.stderr, 5*time.Second
	x.cmd.Env = append(os.Environ(), "LC_ALL=C")
	if x.ReadCloser, err = x.cmd.StdoutPipe(); err == nil {
		err = x.cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, block.Errorf(block.Unsupported, "run %s: %w", tool, err)
	}
	return x, nil
}

// Read returns io.EOF only when xz has found the stream complete.
func (x *xz) Read(b []byte) (int, error) {
	if x.done {
		return 0, x.err
	}
	n, err := x.ReadCloser.Read(b)
	if n > 0 || err == nil {
		return n, nil
	}
	if x.err = err; errors.Is(err, io.EOF) {
		x.done = true
		if waitErr := x.cmd.Wait(); waitErr != nil {
			x.err = block.Errorf(block.Corrupt, "xz: %w: %s", waitErr, x.stderr.last())
		}
	}
	return 0, x.err
}

// Close ends the program where it has not ended.
func (x *xz) Close() error {
	x.cancel()
	if x.done {
		return nil
	}
	x.done, x.err = true, io.ErrClosedPipe
	_ = x.ReadCloser.Close() // or the program could wait for a reader
	_ = x.cmd.Wait()         // it was killed: its error says so
	return nil
}
