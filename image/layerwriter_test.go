package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// addAll writes a whole tree as a layer.
func addAll(t *testing.T, l *LayerWriter, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return l.Add(path, name)
	})
	if err := errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
}

// unpackInto applies layers to a tree of its own, and returns where it is.
func unpackInto(t *testing.T, layers ...[]byte) string {
	t.Helper()
	w, err := newWorkspace(t.TempDir(), func(string, uint64, uint64) {})
	if err != nil {
		t.Fatal(err)
	}
	tr, err := w.newTree()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		if err := tr.unpack(context.Background(), bytes.NewReader(layer), "layer", newWhiteouts()); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tr.setTimes(), tr.close()); err != nil {
		t.Fatal(err)
	}
	return tr.dir
}

// TestLayerRoundTrip unpacks every type of file, writes the tree as a layer, and
// unpacks that.
func TestLayerRoundTrip(t *testing.T) {
	needRoot(t)
	root := unpackInto(t, everyType(t))
	var layer, again bytes.Buffer
	addAll(t, NewLayerWriter(&layer, time.Time{}), root)
	addAll(t, NewLayerWriter(&again, time.Time{}), root)
	if !bytes.Equal(layer.Bytes(), again.Bytes()) {
		t.Error("the same tree gave two different layers")
	}
	copied := unpackInto(t, layer.Bytes())
	if got, want := listing(t, copied), listing(t, root); got != want {
		t.Errorf("the tree is\n%s\nwant\n%s", got, want)
	}
	value := make([]byte, 100)
	for attr, want := range map[string]string{"security.capability": capability, "user.note": "hello"} {
		if n, err := unix.Lgetxattr(filepath.Join(copied, "bin/ping"), attr, value); err != nil || string(value[:n]) != want {
			t.Errorf("attribute %s is %q (%v), want %q", attr, value[:max(n, 0)], err, want)
		}
	}
}

func TestLayerWhiteouts(t *testing.T) {
	needRoot(t)
	lower := tarOf(t, dir("a/"), file("a/1", "1"), file("a/2", "2"), dir("b/"), file("b/3", "3"), file("c", "c"))
	tree := t.TempDir()
	for _, err := range []error{os.Mkdir(filepath.Join(tree, "b"), 0o755), os.WriteFile(filepath.Join(tree, "b/4"), []byte("4"), 0o644)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var upper bytes.Buffer
	l := NewLayerWriter(&upper, time.Time{})
	err := errors.Join(l.Whiteout("/a/1"), l.Add(filepath.Join(tree, "b"), "b"), l.Opaque("b"), l.Add(filepath.Join(tree, "b/4"), "b/4"),
		l.Whiteout("c"), l.Close())
	if err != nil {
		t.Fatal(err)
	}
	root := unpackInto(t, lower, upper.Bytes())
	var got []string
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		name, _ := filepath.Rel(root, path)
		got = append(got, name)
		return err
	})
	if want := []string{".", "a", "a/2", "b", "b/4"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("the tree has %q (%v), want %q", got, err, want)
	}
}

// TestLayerTimes: what is newer than the build's time bears that, and nothing
// has fractions of seconds.
func TestLayerTimes(t *testing.T) {
	tree := t.TempDir()
	limit := time.Unix(1_700_000_000, 0)
	for name, at := range map[string]time.Time{"new": limit.Add(time.Hour), "old": limit.Add(-time.Hour + 500*time.Millisecond)} {
		file := filepath.Join(tree, name)
		if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Chtimes(file, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	var layer bytes.Buffer
	addAll(t, NewLayerWriter(&layer, limit), tree)
	want := map[string]time.Time{"./": limit, "new": limit, "old": limit.Add(-time.Hour)}
	for r := tar.NewReader(&layer); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(want[h.Name]) {
			t.Errorf("%s has the time %v, want %v", h.Name, h.ModTime, want[h.Name])
		}
		delete(want, h.Name)
	}
	if len(want) > 0 {
		t.Errorf("the layer lacks %v", want)
	}
}
