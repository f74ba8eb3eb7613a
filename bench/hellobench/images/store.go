package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// store is the directory that holds what was built:
//
//	apt/SUITE/archives, lists   what apt downloads
//	layers/ID/layer.tar.gz      a layer
//	layers/ID/layer.json        its digests; there once the layer is complete
//	layers/ID/tree              what is in it, unpacked, while another layer needs it
//	images/NAME.json            an image; there once all its layers are
//	work/                       what is being built; of no value afterwards
type store struct {
	dir  string
	lock *os.File
}

// builtLayer is layer.json.
type builtLayer struct {
	Digest v1.Hash `json:"digest"`
	DiffID v1.Hash `json:"diff_id"`
	// Below is the digest of the uncompressed layer that this one was made on.
	Below     *v1.Hash `json:"below,omitempty"`
	SizeBytes int64    `json:"size_bytes"`
	// FileBytes is the sum of its files' sizes.
	FileBytes int64  `json:"file_bytes"`
	CreatedBy string `json:"created_by"`
	// Epoch is the time, in seconds since 1970, that files made by building bear:
	// when the archive of the suite was last changed.
	Epoch int64 `json:"epoch"`
	// Versions are those of all packages installed in this layer and below.
	Versions map[string]string `json:"versions,omitempty"`
}

// openStore makes the directory, and takes it for this process alone, or, to
// push from it, against builds only.
func openStore(dir string, alone bool) (*store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &store{dir: dir}
	for _, d := range []string{"layers", "images", "apt"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if s.lock, err = os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return nil, err
	}
	how := syscall.LOCK_SH
	if alone {
		how = syscall.LOCK_EX
	}
	if err := syscall.Flock(int(s.lock.Fd()), how|syscall.LOCK_NB); err != nil {
		_ = s.lock.Close() // nothing was written
		return nil, fmt.Errorf("%s is in use by a build or a push: %w", dir, err)
	}
	if alone {
		return s, s.clearWork()
	}
	return s, nil
}

func (s *store) close() error { return s.lock.Close() }

func (s *store) work() string { return filepath.Join(s.dir, "work") }

func (s *store) clearWork() error { return os.RemoveAll(s.work()) }

func (s *store) layerDir(l *Layer) string { return filepath.Join(s.dir, "layers", l.ID()) }

func (s *store) tree(l *Layer) string { return filepath.Join(s.layerDir(l), "tree") }

func (s *store) blob(l *Layer) string { return filepath.Join(s.layerDir(l), "layer.tar.gz") }

// layer returns a built layer, or nil where it is not built, or was built on
// something else than what is below it now.
func (s *store) layer(l *Layer) (*builtLayer, error) {
	b := new(builtLayer)
	err := readJSON(filepath.Join(s.layerDir(l), "layer.json"), b)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || l.Below == nil {
		return b, err
	}
	below, err := s.layer(l.Below)
	if err != nil || below == nil || b.Below == nil || *b.Below != below.DiffID {
		return nil, err
	}
	return b, nil
}

// unpacked says whether the tree of a layer is there.
func (s *store) unpacked(l *Layer) bool {
	_, err := os.Stat(s.tree(l))
	return err == nil
}

// Built describes an image that is in the cache.
type Built struct {
	Name    string `json:"name"`
	Recipe  string `json:"recipe"`
	Version string `json:"version"`
	Suite   string `json:"suite,omitempty"`
	Digest  string `json:"digest"`
	// CompressedBytes and UncompressedBytes are those of all layers.
	CompressedBytes   int64             `json:"compressed_bytes"`
	UncompressedBytes int64             `json:"uncompressed_bytes"`
	Layers            []string          `json:"layers"`
	Note              string            `json:"note,omitempty"`
	Versions          map[string]string `json:"versions,omitempty"`
}

func (s *store) imageFile(r *Recipe) string {
	return filepath.Join(s.dir, "images", filepath.FromSlash(r.Name)+".json")
}

// image returns what is known of a built image, or nil where it is not built,
// or was built of another recipe or of other layers.
func (s *store) image(r *Recipe) (*Built, error) {
	b := new(Built)
	err := readJSON(s.imageFile(r), b)
	if errors.Is(err, fs.ErrNotExist) || err == nil && b.Recipe != r.ID() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for i, l := range r.Top.chain() {
		layer, err := s.layer(l)
		if err != nil || layer == nil || i >= len(b.Layers) || b.Layers[i] != layer.Digest.String() {
			return nil, err
		}
	}
	return b, nil
}

func readJSON(file string, into any) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// writeJSON makes a file that is whole whenever it is there.
func writeJSON(file string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
