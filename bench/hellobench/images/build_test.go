package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/slackerd/slacker/image"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: making layers needs root")
	}
	if _, err := exec.LookPath("busybox"); err != nil {
		t.Skip("skipped: busybox-static is not installed: run make setup")
	}
}

// build builds recipes in dir, and returns what was built and what was said.
func build(t *testing.T, dir string, recipes ...*Recipe) ([]*Built, string) {
	t.Helper()
	var said bytes.Buffer
	built, err := Build(context.Background(), Options{Dir: dir, Recipes: recipes, Progress: &said, Shared: recipes})
	if err != nil {
		t.Fatalf("%v\n%s", err, &said)
	}
	return built, said.String()
}

// TestSmallImages builds the two smallest images twice, pushes them to a
// registry, takes them from it, and runs them.
func TestSmallImages(t *testing.T) {
	needRoot(t)
	recipes := []*Recipe{Find("busybox"), Find("hello-world")}
	dir := t.TempDir()
	first, _ := build(t, dir, recipes...)
	second, _ := build(t, t.TempDir(), recipes...)
	for i := range recipes {
		if first[i].Digest != second[i].Digest {
			t.Errorf("%s: built twice, got %s and %s", first[i].Name, first[i].Digest, second[i].Digest)
		}
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	if err := Push(context.Background(), PushOptions{Dir: dir, Recipes: recipes, Registry: host, Progress: io.Discard}); err != nil {
		t.Fatal(err)
	}
	for i, args := range [][]string{{"echo", "hello"}, {"/hello"}} {
		img := pull(t, host+"/"+recipes[i].Name)
		if err := validate.Image(img); err != nil {
			t.Errorf("%s: %v", recipes[i].Name, err)
		}
		root := unpackImage(t, img)
		out, err := exec.Command("chroot", append([]string{root}, args...)...).CombinedOutput()
		if err != nil || !strings.Contains(strings.ToLower(string(out)), "hello") {
			t.Errorf("%s says %q (%v), want hello", recipes[i].Name, out, err)
		}
	}
}

func pull(t *testing.T, ref string) v1.Image {
	t.Helper()
	tag, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(tag)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// unpackImage unpacks an image with tar.
func unpackImage(t *testing.T, img v1.Image) string {
	t.Helper()
	root := t.TempDir()
	flat := mutate.Extract(img)
	defer func() { _ = flat.Close() }() // read only
	cmd := exec.Command("tar", "-xpf", "-", "-C", root)
	cmd.Stdin = flat
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	return root
}

// TestChanges makes a layer that adds, changes, removes and replaces, and reads
// it and the whole image.
func TestChanges(t *testing.T) {
	needRoot(t)
	base := &Layer{Installed: "busybox-static", Run: busyboxScript + `mkdir "$OUT/old" "$OUT/gone"; echo 1 >"$OUT/old/1"; echo 2 >"$OUT/gone/2"; echo 3 >"$OUT/3"`}
	top := base.files(File{"/opt/deep/file", "content\n", 0o640}).then(`
		rm -r /old /gone
		mkdir /old
		echo new >/old/new
		rm /3
		echo to be gone >/tmp/x
		echo more >>/etc/passwd
	`)
	dir := t.TempDir()
	r := &Recipe{Name: "changes", Top: top, VersionOf: "busybox-static", Config: shell("sh")}
	built, _ := build(t, dir, r)
	if len(built[0].Layers) != 2 {
		t.Fatalf("%d layers, want 2", len(built[0].Layers))
	}
	names := layerNames(t, filepath.Join(dir, "layers", top.ID(), "layer.tar.gz"))
	want := []string{"./", ".wh.3", "etc/", "etc/passwd", ".wh.gone", "old/", "old/.wh..wh..opq", "old/new", "opt/", "opt/deep/", "opt/deep/file"}
	slices.Sort(names)
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("the layer has\n%q, want\n%q", names, want)
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("something is still mounted below %s (%v)", dir, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "layers", top.ID(), "tree")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unpacked layer that no other needs is still there (%v)", err)
	}
}

func layerNames(t *testing.T, file string) []string {
	t.Helper()
	plain, err := image.StoredLayer(file, types.OCILayer, v1.Hash{}, v1.Hash{}, 0).Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = plain.Close() }() // read only
	var names []string
	for r := tar.NewReader(plain); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

// TestResume: a step that fails keeps what is below it, what is built is not
// built again, and a change builds what stands on it.
func TestResume(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	base := &Layer{Installed: "busybox-static", Run: busyboxScript}
	recipe := func(script string) *Recipe {
		return &Recipe{Name: "resume", Top: base.run(script), VersionOf: "busybox-static", Config: shell("sh")}
	}
	bad := recipe("echo what went wrong; exit 3")
	built, err := Build(context.Background(), Options{Dir: dir, Recipes: []*Recipe{bad}, Progress: io.Discard, Shared: []*Recipe{bad}})
	if err == nil || !strings.Contains(err.Error(), "what went wrong") || !strings.Contains(err.Error(), "resume") || len(built) != 0 {
		t.Fatalf("want an error with the image and the end of the output, got %v and %d images", err, len(built))
	}
	_, said := build(t, dir, recipe("echo a >/a"))
	if strings.Contains(said, "layer 1 of 2") || !strings.Contains(said, "layer 2 of 2") {
		t.Errorf("want the second layer built only, got\n%s", said)
	}
	if _, said = build(t, dir, recipe("echo a >/a")); strings.Contains(said, "layer") {
		t.Errorf("want nothing built, got\n%s", said)
	}
	if _, said = build(t, dir, recipe("echo b >/a")); !strings.Contains(said, "layer 2 of 2") {
		t.Errorf("want the changed layer built, got\n%s", said)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Build(ctx, Options{Dir: dir, Recipes: []*Recipe{recipe("true")}, Progress: io.Discard}); !errors.Is(err, context.Canceled) {
		t.Errorf("want the build ended, got %v", err)
	}
}

// TestOneBuildAtATime: a second build in the same directory is refused, a
// second push is not.
func TestOneBuildAtATime(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ first, second, refused bool }{{true, true, true}, {true, false, true}, {false, true, true}, {false, false, false}} {
		s, err := openStore(dir, c.first)
		if err != nil {
			t.Fatal(err)
		}
		other, err := openStore(dir, c.second)
		if (err != nil) != c.refused || c.refused && !strings.Contains(err.Error(), "in use") {
			t.Errorf("alone %v, then %v: got %v, want refused: %v", c.first, c.second, err, c.refused)
		}
		if err == nil {
			err = other.close()
		} else {
			err = nil
		}
		if err := errors.Join(err, s.close()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReleaseDate(t *testing.T) {
	lists := t.TempDir()
	for name, date := range map[string]string{"a_InRelease": "Sat, 06 Sep 2025 09:09:10 UTC", "b_InRelease": "Thu, 01 Jan 2026 00:00:00 UTC"} {
		if err := os.WriteFile(filepath.Join(lists, name), []byte("Suite: x\nDate: "+date+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := releaseDate(lists); err != nil || got != 1767225600 {
		t.Errorf("the date is %d (%v), want 1767225600", got, err)
	}
}
