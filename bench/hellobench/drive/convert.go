package drive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/stargz-snapshotter/estargz"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"

	"github.com/slackerd/slacker/stack"
)

// writeLayout writes an image as an OCI layout, DIR/oci.
func (b *Bed) writeLayout(ctx context.Context, i Image, dir string) error {
	img, err := b.Fetch(ctx, "", i.Name)
	if err != nil {
		return err
	}
	_, err = layout.Write(filepath.Join(dir, "oci"), mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img}))
	return err
}

// The annotations of a converted image.
const (
	convertedFrom = "org.slacker.hellobench.converted-from"
	convertedAt   = "org.slacker.hellobench.level"
	stargzPath    = "stargz/" // of repositories with converted images
)

// DefaultStargzLevel is the gzip level of conversions: that of docker build's
// layers. The converter's own default, 9, takes several times as long for layers
// that are a few per cent smaller.
const DefaultStargzLevel = 6

// convertStargz puts the image as eStargz into the registry, unless it is there.
func (b *Bed) convertStargz(ctx context.Context, i Image) error {
	ref, err := Ref(b.Registry, stargzPath, i.Name)
	if err != nil {
		return err
	}
	level := strconv.Itoa(b.StargzLevel)
	if there, err := b.Fetch(ctx, stargzPath, i.Name); err == nil {
		if m, err := there.Manifest(); err == nil && m.Annotations[convertedFrom] == i.Digest && m.Annotations[convertedAt] == level {
			return nil
		}
	}
	img, err := b.Fetch(ctx, "", i.Name)
	if err != nil {
		return err
	}
	k := keeper{dir: filepath.Join(b.Cache, "stargz", "level-"+level), level: b.StargzLevel}
	if err := os.MkdirAll(k.dir, 0o755); err != nil {
		return err
	}
	converted, layers, err := k.convert(ctx, img)
	if err != nil {
		return fmt.Errorf("convert %s to eStargz: %w", i.Name, err)
	}
	annotated, ok := mutate.Annotations(converted, map[string]string{convertedFrom: i.Digest, convertedAt: level}).(v1.Image)
	if !ok {
		return errors.New("an annotated image is none")
	}
	if err := remote.Write(ref, annotated, Remote(ctx, b.Link.Server)...); err != nil {
		return err
	}
	for _, l := range layers {
		if err := stack.SameFile(b.Registry.Blob(l.Blob.String()), l.path); err != nil {
			return err
		}
	}
	return nil
}

// keeper converts layers to eStargz and keeps them in a directory, for the images
// that have them too.
type keeper struct {
	dir   string
	level int // of gzip
}

// convert makes every layer an eStargz.
func (k keeper) convert(ctx context.Context, img v1.Image) (_ v1.Image, kept []*fileLayer, err error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, nil, err
	}
	out := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for n, l := range layers {
		s, err := k.layer(ctx, l)
		if err != nil {
			return nil, nil, fmt.Errorf("layer %d: %w", n, err)
		}
		kept = append(kept, s)
		out, err = mutate.Append(out, mutate.Addendum{
			Layer: s, MediaType: types.OCILayer, History: v1.History{CreatedBy: "estargz"},
			Annotations: map[string]string{estargz.TOCJSONDigestAnnotation: s.TOC},
		})
		if err != nil {
			return nil, nil, err
		}
	}
	made, err := out.ConfigFile()
	if err != nil {
		return nil, nil, err
	}
	config = config.DeepCopy()
	config.RootFS, config.History = made.RootFS, made.History
	converted, err := mutate.ConfigFile(out, config)
	return converted, kept, err
}

// fastGzip is the converter's gzip with a faster encoder.
type fastGzip struct {
	*estargz.GzipCompressor
	*estargz.GzipDecompressor
	level int
}

func newFastGzip(level int) fastGzip {
	return fastGzip{estargz.NewGzipCompressorWithLevel(level), &estargz.GzipDecompressor{}, level}
}

// Writer is a stream of one chunk.
func (g fastGzip) Writer(w io.Writer) (estargz.WriteFlushCloser, error) {
	return gzip.NewWriterLevel(w, g.level)
}

// fileLayer is a compressed layer in a file.
type fileLayer struct {
	path string
	layerFacts
}

// layerFacts are in a file beside it, which is there when the layer is whole.
type layerFacts struct {
	Blob, Diff v1.Hash
	Bytes      int64
	TOC        string
}

func (l *fileLayer) Digest() (v1.Hash, error)            { return l.Blob, nil }
func (l *fileLayer) DiffID() (v1.Hash, error)            { return l.Diff, nil }
func (l *fileLayer) Compressed() (io.ReadCloser, error)  { return os.Open(l.path) }
func (l *fileLayer) Size() (int64, error)                { return l.Bytes, nil }
func (l *fileLayer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }

// Uncompressed is not asked for by what pushes.
func (l *fileLayer) Uncompressed() (io.ReadCloser, error) {
	return nil, errors.New("an eStargz layer is kept compressed only")
}

// layer is the converted layer, made now or earlier.
func (k keeper) layer(ctx context.Context, l v1.Layer) (*fileLayer, error) {
	from, err := l.Digest()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(k.dir, from.Hex)
	if b, err := os.ReadFile(path + ".json"); err == nil {
		kept := &fileLayer{path: path}
		return kept, json.Unmarshal(b, &kept.layerFacts)
	}
	made, err := k.make(ctx, l, path)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(made.layerFacts)
	if err != nil {
		return nil, err
	}
	return made, os.WriteFile(path+".json", b, 0o644)
}

func (k keeper) make(ctx context.Context, l v1.Layer, path string) (*fileLayer, error) {
	tar, err := os.Create(path + ".tar")
	if err != nil {
		return nil, err
	}
	defer func() { _ = tar.Close(); _ = os.Remove(tar.Name()) }() // read only by now
	r, err := l.Uncompressed()
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(tar, r)
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	blob, err := estargz.Build(io.NewSectionReader(tar, 0, n), estargz.WithContext(ctx), estargz.WithCompression(newFastGzip(k.level)))
	if err != nil {
		return nil, err
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, errors.Join(err, blob.Close())
	}
	out := &fileLayer{path: path, layerFacts: layerFacts{TOC: blob.TOCDigest().String()}}
	out.Blob, out.Bytes, err = v1.SHA256(io.TeeReader(blob, f))
	if err := errors.Join(err, blob.Close(), f.Close()); err != nil {
		return nil, err
	}
	out.Diff, err = v1.NewHash(blob.DiffID().String()) // complete once the blob was read
	return out, err
}
