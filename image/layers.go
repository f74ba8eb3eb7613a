package image

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/slackerd/slacker/block"
)

// unpackTar unpacks a plain or compressed tar archive.
func (t *tree) unpackTar(ctx context.Context, path string, progress Progress) error {
	f, err := openFile(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	st, err := f.Stat()
	if err != nil {
		return openError(path, err)
	}
	counted := &countingReader{r: f, ctx: ctx, progress: progress, phase: PhaseUnpack, total: uint64(st.Size())}
	plain, err := openPlain(ctx, counted, path)
	if err != nil {
		return err
	}
	defer func() { _ = plain.Close() }() // read only
	end := &endWatcher{r: plain}
	if err := t.unpack(ctx, end, path, nil); err != nil {
		return err
	}
	if end.delivered == 0 {
		return block.Errorf(block.Invalid, "%s is empty: want a tar archive", path)
	}
	if end.ended && !end.zero {
		return noTrailer(path)
	}
	return drain(plain, path) // which verifies the checksum of a compressed stream
}

// openPlain decompresses r if it is compressed.
func openPlain(ctx context.Context, r io.Reader, name string) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 64<<10)
	head, err := buffered.Peek(8)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, block.Wrap(block.IO, err, "read "+name)
	}
	return decompress(ctx, buffered, sniffCompression(head), name)
}

func drain(r io.Reader, name string) error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return block.Wrap(block.IO, err, "read "+name)
	}
	return nil
}

// endWatcher knows, when a tar reader says that the archive has ended, whether
// it ended in a block of zeroes or at the end of the file.
type endWatcher struct {
	r         io.Reader
	delivered uint64
	zero      bool // the last block was zero
	ended     bool // the end of the file was met
}

func (e *endWatcher) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	e.delivered += uint64(n)
	if n >= tarBlockBytes {
		e.zero = block.IsZero(p[n-tarBlockBytes : n])
	} else if n > 0 { // a part of a block: as zero as what came before it
		e.zero = block.IsZero(p[:n]) && (e.zero || e.delivered%tarBlockBytes == uint64(n))
	}
	e.ended = e.ended || errors.Is(err, io.EOF)
	return n, err
}

// unpackLayers applies the layers of a container image, lowest first.
func (t *tree) unpackLayers(ctx context.Context, a archive, img *containerImage, progress Progress) error {
	var total, before uint64
	for i := range img.layers {
		r, size, err := a.open(img.layers[i].blob)
		if err != nil {
			return block.Wrap(block.Corrupt, err, layerName(img, i))
		}
		_ = r.Close() // not read
		if want := img.layers[i].size; want >= 0 && want != size {
			return block.Errorf(block.Corrupt, "%s: want %d bytes, got %d", layerName(img, i), want, size)
		}
		total += uint64(size)
	}
	for i, l := range img.layers {
		read, err := t.unpackLayer(ctx, a, l, layerName(img, i), func(phase string, done, _ uint64) {
			progress(phase, before+done, total)
		})
		if err != nil {
			return err
		}
		before += read
	}
	return nil
}

func layerName(img *containerImage, i int) string {
	return fmt.Sprintf("layer %d of %d of image %s", i+1, len(img.layers), img.name)
}

// unpackLayer applies one layer, and refuses it if a digest is not as stated.
// It returns the bytes of the blob.
func (t *tree) unpackLayer(ctx context.Context, a archive, l imageLayer, name string, progress Progress) (uint64, error) {
	blob, size, err := a.open(l.blob)
	if err != nil {
		return 0, err
	}
	defer func() { _ = blob.Close() }() // read only
	packed, unpacked := sha256.New(), sha256.New()
	counted := &countingReader{r: io.TeeReader(blob, packed), ctx: ctx, progress: progress, phase: PhaseUnpack}
	plain, err := openPlain(ctx, counted, name)
	if err != nil {
		return 0, err
	}
	defer func() { _ = plain.Close() }() // read only
	stream := io.TeeReader(plain, unpacked)
	if err := t.unpack(ctx, stream, name, newWhiteouts()); err != nil {
		return 0, err
	}
	if err := drain(stream, name); err != nil {
		return 0, err
	}
	if err := drain(counted, name); err != nil { // what follows the compressed stream
		return 0, err
	}
	if got := hexSum(packed); l.digest != "" && got != l.digest {
		return 0, digestError(name, l.digest, got)
	}
	if got := hexSum(unpacked); got != l.diffID {
		return 0, digestError(name+" (uncompressed)", l.diffID, got)
	}
	return uint64(size), nil
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }
