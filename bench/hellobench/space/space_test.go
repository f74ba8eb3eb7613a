package space

import (
	"archive/tar"
	"bytes"
	"io"
	"maps"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// imageOf makes an image of layers of files.
func imageOf(t *testing.T, layers ...map[string]string) v1.Image {
	t.Helper()
	img := empty.Image
	for _, files := range layers {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, name := range slices.Sorted(maps.Keys(files)) { // the same layer each time
			text := files[name]
			if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Mode: 0o644}); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(w, text); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

func block(c byte) string { return string(bytes.Repeat([]byte{c}, blockBytes)) }

func TestMeasure(t *testing.T) {
	base := map[string]string{"a": block('x') + block('y'), "b": block('x') + block('y'), "c": block('x') + "end"}
	r, err := Measure(t.Context(), []Image{
		{"one", imageOf(t, base)},
		{"two", imageOf(t, base, map[string]string{"d": block('z') + "end"})},
	}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	const b = blockBytes
	for n, want := range []Sizes{
		{Layers: 1, Files: 3, Whole: 5*b + 3, UniqueFiles: 3*b + 3, UniqueBlock: 2*b + 3},
		{Layers: 2, Files: 4, Whole: 6*b + 6, UniqueFiles: 4*b + 6, UniqueBlock: 3*b + 3},
	} {
		got := r.Images[n]
		got.Gzip, got.Name = 0, ""
		if got != want {
			t.Errorf("image %d: got %+v, want %+v", n, got, want)
		}
	}
	set := r.Set
	if set.Whole != 11*b+9 || set.UniqueFiles != 4*b+6 || set.UniqueBlock != 3*b+3 || set.Layers != 2 {
		t.Errorf("set: got %+v", set)
	}
	if set.UniqueZstd == 0 || set.UniqueZstd > set.UniqueBlock/10 {
		t.Errorf("blocks of one letter took %d bytes of %d compressed", set.UniqueZstd, set.UniqueBlock)
	}
	if set.Gzip != r.Images[1].Gzip {
		t.Errorf("the set has %d bytes of gzip, want each layer once: %d", set.Gzip, r.Images[1].Gzip)
	}
}
