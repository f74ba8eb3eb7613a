package image

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"

	"github.com/slackerd/slacker/block"
)

// PackedLayer is a compressed layer in a file. It is a v1.Layer.
type PackedLayer struct {
	file           string
	mediaType      types.MediaType
	digest, diffID v1.Hash
	sizeBytes      int64
}

// StoredLayer is a layer that was packed before.
func StoredLayer(file string, mediaType types.MediaType, digest, diffID v1.Hash, sizeBytes int64) *PackedLayer {
	return &PackedLayer{file, mediaType, digest, diffID, sizeBytes}
}

// PackLayer makes a compressed layer of what write puts into it. Later
// modification times than notAfter become that, unless it is zero.
func PackLayer(file string, mediaType types.MediaType, notAfter time.Time, write func(*LayerWriter) error) (l *PackedLayer, err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, openError(file, err)
	}
	defer func() {
		if closeErr := f.Close(); err == nil && closeErr != nil {
			err = writeError(file, closeErr)
		}
	}()
	buffered := bufio.NewWriterSize(f, 1<<20)
	packed := &hashingWriter{w: buffered, hash: sha256.New()}
	zip := gzip.NewWriter(packed)
	plain := &hashingWriter{w: zip, hash: sha256.New()}
	if err := write(NewLayerWriter(plain, notAfter)); err != nil {
		return nil, err
	}
	if err := errors.Join(zip.Close(), buffered.Flush()); err != nil {
		return nil, writeError(file, err)
	}
	return &PackedLayer{file: file, mediaType: mediaType, digest: packed.sum(), diffID: plain.sum(), sizeBytes: packed.bytes}, nil
}

// hashingWriter hashes and counts what passes.
type hashingWriter struct {
	w     io.Writer
	hash  hash.Hash
	bytes int64
}

func (h *hashingWriter) Write(p []byte) (int, error) {
	n, err := h.w.Write(p)
	_, _ = h.hash.Write(p[:n]) // never fails
	h.bytes += int64(n)
	return n, err
}

func (h *hashingWriter) sum() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.hash.Sum(nil))}
}

// Digest and the others make it a layer of the library.
func (l *PackedLayer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *PackedLayer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *PackedLayer) Size() (int64, error)                { return l.sizeBytes, nil }
func (l *PackedLayer) MediaType() (types.MediaType, error) { return l.mediaType, nil }

// Compressed opens the layer as it is stored.
func (l *PackedLayer) Compressed() (io.ReadCloser, error) { return openFile(l.file) }

// Uncompressed opens the archive in it.
func (l *PackedLayer) Uncompressed() (io.ReadCloser, error) {
	f, err := openFile(l.file)
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		_ = f.Close() // read only
		return nil, block.Wrap(block.IO, err, "read "+l.file)
	}
	return &unzipped{z, f}, nil
}

// unzipped closes the file behind a decompressor.
type unzipped struct {
	*gzip.Reader
	f *os.File
}

func (u *unzipped) Close() error { return u.f.Close() }
