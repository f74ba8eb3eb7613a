package drive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/stargz-snapshotter/estargz"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
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
	stargzPath    = "stargz/" // of repositories with converted images
)

// convertStargz puts the image as eStargz into the registry, unless it is there.
func (b *Bed) convertStargz(ctx context.Context, i Image) error {
	ref, err := Ref(b.Registry, stargzPath, i.Name)
	if err != nil {
		return err
	}
	if there, err := b.Fetch(ctx, stargzPath, i.Name); err == nil {
		if m, err := there.Manifest(); err == nil && m.Annotations[convertedFrom] == i.Digest {
			return nil
		}
	}
	img, err := b.Fetch(ctx, "", i.Name)
	if err != nil {
		return err
	}
	kept := filepath.Join(b.Cache, "stargz")
	if err := os.MkdirAll(kept, 0o755); err != nil {
		return err
	}
	converted, err := toStargz(ctx, img, kept)
	if err != nil {
		return fmt.Errorf("convert %s to eStargz: %w", i.Name, err)
	}
	annotated, ok := mutate.Annotations(converted, map[string]string{convertedFrom: i.Digest}).(v1.Image)
	if !ok {
		return errors.New("an annotated image is none")
	}
	return remote.Write(ref, annotated, Remote(ctx, b.Link.Server)...)
}

// toStargz makes every layer an eStargz, in files of a directory where those of
// other images are too.
func toStargz(ctx context.Context, img v1.Image, dir string) (v1.Image, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	out := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for n, l := range layers {
		s, err := keptLayer(ctx, l, dir)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", n, err)
		}
		out, err = mutate.Append(out, mutate.Addendum{
			Layer: s, MediaType: types.OCILayer, History: v1.History{CreatedBy: "estargz"},
			Annotations: map[string]string{estargz.TOCJSONDigestAnnotation: s.TOC},
		})
		if err != nil {
			return nil, err
		}
	}
	made, err := out.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.RootFS, config.History = made.RootFS, made.History
	return mutate.ConfigFile(out, config)
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

// keptLayer is the converted layer, made now or earlier.
func keptLayer(ctx context.Context, l v1.Layer, dir string) (*fileLayer, error) {
	from, err := l.Digest()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, from.Hex)
	if b, err := os.ReadFile(path + ".json"); err == nil {
		kept := &fileLayer{path: path}
		return kept, json.Unmarshal(b, &kept.layerFacts)
	}
	made, err := stargzLayer(ctx, l, path)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(made.layerFacts)
	if err != nil {
		return nil, err
	}
	return made, os.WriteFile(path+".json", b, 0o644)
}

func stargzLayer(ctx context.Context, l v1.Layer, path string) (*fileLayer, error) {
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
	blob, err := estargz.Build(io.NewSectionReader(tar, 0, n), estargz.WithContext(ctx))
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
