package image

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/slackerd/slacker/block"
)

// lineage imports two trees as base@1 and app@1: the second is the first after
// changes of every kind.
func lineage(t *testing.T, s *server) {
	t.Helper()
	needRoot(t)
	later := func(e tarEntry) tarEntry { e.ModTime = epoch.Add(1); return e }
	lower := tarOf(t, dir("./"), dir("etc/"), file("etc/same", "1"), file("etc/changed", "1"), file("etc/gone", "1"),
		dir("gone/"), file("gone/deep", "1"), file("todir", "1"), dir("tofile/"), file("tofile/in", "1"), symlink("link", "etc/same"),
		symlink("sh", "a"), file("l1", "linked"), hardlink("l2", "l1"), file("m1", "apart"), hardlink("m2", "m1"), file("n1", "moved"), hardlink("n2", "n1"), dir("mode/"), file("mode/same", "1"))
	mode := dir("mode/")
	mode.Mode = 0o700
	upper := tarOf(t, dir("./"), dir("etc/"), file("etc/same", "1"), file("etc/changed", "2"), file("etc/new", "2"),
		dir("todir/"), file("todir/in", "2"), file("tofile", "2"), symlink("link", "etc/same"), symlink("sh", "b"),
		file("l1", "linked"), hardlink("l2", "l1"), later(hardlink("l3", "l1")), file("m1", "apart"), file("m2", "apart"), file("n1", "moved"), hardlink("n3", "n1"), mode, file("mode/same", "1"))
	for target, b := range map[string][]byte{"base@1": lower, "app@1": upper} {
		o := s.importOptions(t, save(t, strings.ReplaceAll(target, "@", "")+".tar", b))
		o.Target = target
		if _, err := Import(context.Background(), o); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *server) layersOptions(t *testing.T, dest string) LayersOptions {
	return LayersOptions{Source: "app@1", Below: []string{"base@1"}, Dest: dest, Client: s.client, TempDir: t.TempDir()}
}

// layerEntries are the names in a layer, in order.
func layerEntries(t *testing.T, l v1.Layer) []string {
	t.Helper()
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }() // read only
	var names []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

func openLayout(t *testing.T, dir string) v1.Image {
	t.Helper()
	img, err := openBase(context.Background(), dir, false)
	if err == nil {
		err = validate.Image(img)
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestExportLayers exports two snapshots as an image of two layers: the second
// holds just what changed, and an import of the image gives what was exported.
func TestExportLayers(t *testing.T) {
	s := startServer(t)
	lineage(t, s)
	dest := filepath.Join(t.TempDir(), "layout")
	o := s.layersOptions(t, dest)
	o.Tag, o.Config = "app:1", []byte(`{"config":{"Cmd":["/bin/app"]},"rootfs":{"type":"layers","diff_ids":[]}}`)
	res, err := ExportLayers(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	img := openLayout(t, dest)
	layers, err := img.Layers()
	if err != nil || len(layers) != 2 {
		t.Fatalf("%d layers (%v), want 2", len(layers), err)
	}
	want := []string{"etc/changed", ".wh.gone", "etc/.wh.gone", "etc/new", "l1", "l2", "l3", "m1", "m2", ".wh.n2", "n1", "n3", "mode/", "sh", "todir/", "todir/in", "tofile"}
	got := layerEntries(t, layers[1])
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the layer has\n%q, want\n%q", got, want)
	}
	config, err := img.ConfigFile()
	if err != nil || len(config.Config.Cmd) != 1 || config.Config.Cmd[0] != "/bin/app" {
		t.Errorf("configuration %+v (%v), want the command that was given", config, err)
	}
	again := s.importOptions(t, dest)
	again.Target = "again@1"
	if _, err := Import(context.Background(), again); err != nil {
		t.Fatal(err)
	}
	if got, want := s.listing(t, "again@1"), s.listing(t, "app@1"); got != want {
		t.Errorf("imported again, the tree is\n%s\nwant\n%s", got, want)
	}
	o.Force = true
	same, err := ExportLayers(context.Background(), o)
	if err != nil || same.Image != res.Image {
		t.Errorf("exported again, the image is %s (%v), want %s", same.Image, err, res.Image)
	}
}

// listing lists the files of a snapshot.
func (s *server) listing(t *testing.T, snapshot string) string {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	if _, err := Export(context.Background(), ExportOptions{Source: snapshot, Dest: raw, Client: s.client}); err != nil {
		t.Fatal(err)
	}
	return listing(t, mount(t, raw))
}

// TestExportOnBase exports what was made from an image in a registry, into the
// registry: the image's layers and configuration stay as they are.
func TestExportOnBase(t *testing.T) {
	s := startServer(t)
	lineage(t, s)
	web := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer web.Close()
	host := registryPrefix + strings.TrimPrefix(web.URL, "http://")
	o := s.layersOptions(t, host+"/base:1")
	o.Source, o.Below, o.Config = "base@1", nil, []byte(`{"config":{"Cmd":["/bin/base"]},"rootfs":{"type":"layers","diff_ids":[]}}`)
	if _, err := ExportLayers(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	o = s.layersOptions(t, host+"/app:1")
	o.Base = host + "/base:1"
	if _, err := ExportLayers(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	base, app := openLayout(t, host+"/base:1"), openLayout(t, host+"/app:1")
	below, err1 := base.Manifest()
	above, err2 := app.Manifest()
	config, err3 := app.ConfigFile()
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	if len(above.Layers) != 2 || above.Layers[0].Digest != below.Layers[0].Digest {
		t.Errorf("layers %v, want those of the base %v and one more", above.Layers, below.Layers)
	}
	if len(config.Config.Cmd) != 1 || config.Config.Cmd[0] != "/bin/base" {
		t.Errorf("command %q, want the base's", config.Config.Cmd)
	}
}

// TestExportLayersRefuses what cannot be exported, and leaves nothing behind.
func TestExportLayersRefuses(t *testing.T) {
	s := startServer(t)
	lineage(t, s)
	o := s.importOptions(t, save(t, "odd.tar", tarOf(t, file("ok", "1"), file("dir/.wh.ok", "2"))))
	o.Target = "odd@1"
	if _, err := Import(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	if err := os.Mkdir(there, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*LayersOptions)
		kind   block.Kind
		text   string
	}{
		"a volume":           {func(o *LayersOptions) { o.Source = "app" }, block.Invalid, "VOLUME@SNAPSHOT"},
		"no such snapshot":   {func(o *LayersOptions) { o.Source = "none@1" }, block.NotFound, "none@1"},
		"a base without one": {func(o *LayersOptions) { o.Base, o.Below = "layout", nil }, block.Invalid, "one snapshot"},
		"a destination":      {func(o *LayersOptions) { o.Dest = there }, block.Exists, "there"},
		"no layout":          {func(o *LayersOptions) { o.Base = there }, block.Invalid, "OCI layout"},
		"a file like a sign": {func(o *LayersOptions) { o.Source, o.Below = "odd@1", nil }, block.Invalid, "rename it"},
		"a configuration":    {func(o *LayersOptions) { o.Config = []byte("{") }, block.Invalid, "configuration"},
	} {
		o := s.layersOptions(t, filepath.Join(dir, "new"))
		c.change(&o)
		_, err := ExportLayers(context.Background(), o)
		if !block.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: want an error of kind %v with %q, got %v", name, c.kind, c.text, err)
		}
		left, err := os.ReadDir(o.TempDir)
		if err != nil || len(left) > 0 {
			t.Errorf("%s: left %v (%v)", name, left, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left %v (%v) beside the destination", left, err)
	}
}
