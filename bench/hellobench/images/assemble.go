package images

import (
	"io"
	"os"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
)

// fileLayer is a layer in the cache, as the library wants it.
type fileLayer struct {
	file  string
	built *builtLayer
}

func (l *fileLayer) Digest() (v1.Hash, error)             { return l.built.Digest, nil }
func (l *fileLayer) DiffID() (v1.Hash, error)             { return l.built.DiffID, nil }
func (l *fileLayer) Size() (int64, error)                 { return l.built.SizeBytes, nil }
func (l *fileLayer) MediaType() (types.MediaType, error)  { return types.OCILayer, nil }
func (l *fileLayer) Compressed() (io.ReadCloser, error)   { return os.Open(l.file) }
func (l *fileLayer) Uncompressed() (io.ReadCloser, error) { return openGzip(l.file) }

// gzipFile closes the file behind a decompressor too.
type gzipFile struct {
	*gzip.Reader
	f *os.File
}

func openGzip(file string) (io.ReadCloser, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	r, err := gzip.NewReader(f)
	if err != nil {
		_ = f.Close() // read only
		return nil, err
	}
	return gzipFile{r, f}, nil
}

func (g gzipFile) Close() error { return g.f.Close() }

// assemble puts the layers of a recipe together. All of them are built.
func (s *store) assemble(r *Recipe) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	var created v1.Time
	for _, l := range r.Top.chain() {
		built, err := s.layer(l)
		if err != nil {
			return nil, err
		}
		created = v1.Time{Time: time.Unix(built.Epoch, 0).UTC()}
		img, err = mutate.Append(img, mutate.Addendum{
			Layer:     &fileLayer{s.blob(l), built},
			History:   v1.History{Created: created, CreatedBy: built.CreatedBy},
			MediaType: types.OCILayer,
		})
		if err != nil {
			return nil, err
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", runtime.GOARCH, created
	config.Config = *r.Config.DeepCopy()
	return mutate.ConfigFile(img, config)
}
