package image

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/slackerd/slacker/block"
)

// imageOf makes an image of layers, lowest first.
func imageOf(t *testing.T, arch string, layers ...[]byte) v1.Image {
	t.Helper()
	img := empty.Image
	for _, b := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		if err == nil {
			img, err = mutate.AppendLayers(img, l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Config.Cmd = "linux", arch, []string{"/bin/" + arch}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

func arch() string {
	s, _ := newSelection("", "")
	return s.platform.Architecture
}

// sampleLayers use every kind of whiteout, in awkward orders.
func sampleLayers(t *testing.T) [][]byte {
	return [][]byte{
		tarOf(t, dir("etc/"), file("etc/keep", "1"), file("etc/gone", "1"), dir("opq/"), file("opq/old", "1"), dir("opq/sub/"), file("opq/sub/old", "1"),
			dir("usr/lib/"), symlink("lib", "usr/lib"), file("lib/a", "1"), file("usr/lib/b", "1"), dir("gonedir/"), file("gonedir/x", "1"),
			dir("todir"), file("todir/x", "1"), file("tofile", "1"), file("linked", "1"), hardlink("linked2", "linked"), file("again", "old"),
			dir("both/"), file("both/low", "1"), file("last", "1"), file(".wh.", "").rename("zz"), dir("secondopq/"), file("secondopq/x", "1")),
		tarOf(t, file("opq/new", "2"), file("opq/sub/new", "2"), file("opq/.wh..wh..opq", ""), file("etc/.wh.gone", ""), file("lib/.wh.b", ""),
			file(".wh.gonedir", ""), file("todir", "2"), dir("tofile/"), file("tofile/in", "2"), file(".wh.linked", ""),
			file("again", "new"), file(".wh.again", ""), file("both/high", "2"), file(".wh.both", ""), file(".wh..wh.plnk", ""), file("lib/c", "2")),
		tarOf(t, file(".wh.last", ""), file("secondopq/.wh..wh..opq", ""), file("secondopq/y", "3"), hardlink("etc/keep2", "etc/keep")),
	}
}

func (e tarEntry) rename(name string) tarEntry { e.Name = name; return e }

func wantSample(t *testing.T, root string) {
	t.Helper()
	f := func(name, data string, links string) string {
		return name + " 100644 0:0 links=" + links + ` mtime=1600000000 "` + data + `"`
	}
	d := func(name string) string { return name + " 40755 0:0" }
	wantListing(t, listing(t, root), d("."), d("etc"), f("etc/keep", "1", "2"), f("etc/keep2", "1", "2"), d("opq"), f("opq/new", "2", "1"), d("opq/sub"), f("opq/sub/new", "2", "1"),
		d("usr"), d("usr/lib"), "lib 120777 0:0 -> usr/lib", f("usr/lib/a", "1", "1"), f("usr/lib/c", "2", "1"), f("todir", "2", "1"), d("tofile"), f("tofile/in", "2", "1"),
		f("linked2", "1", "1"), f("again", "new", "1"), d("both"), f("both/high", "2", "1"), f("zz", "", "1"), d("secondopq"), f("secondopq/y", "3", "1"))
}

// tarDir makes a tar archive of a directory, for OCI layouts.
func tarDir(t *testing.T, root string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "layout.tar")
	run(t, "tar", "-C", root, "-cf", out, ".")
	return out
}

func writeLayout(t *testing.T, add func(p layout.Path) error) string {
	t.Helper()
	root := t.TempDir()
	p, err := layout.Write(root, empty.Index)
	if err == nil {
		err = add(p)
	}
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func named(ref string) layout.Option {
	return layout.WithAnnotations(map[string]string{nameAnnotations[0]: ref})
}

func writeDocker(t *testing.T, images map[string]v1.Image) string {
	t.Helper()
	refs := map[name.Reference]v1.Image{}
	for ref, img := range images {
		tag, err := name.NewTag(ref)
		if err != nil {
			t.Fatal(err)
		}
		refs[tag] = img
	}
	path := filepath.Join(t.TempDir(), "docker.tar")
	if err := tarball.MultiRefWriteToFile(path, refs); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestContainerImages(t *testing.T) {
	needRoot(t)
	img := imageOf(t, arch(), sampleLayers(t)...)
	oci := writeLayout(t, func(p layout.Path) error { return p.AppendImage(img) })
	ociTar := tarDir(t, oci)
	sources := map[string]string{FormatOCI + " dir": oci, FormatOCI + " tar": ociTar,
		FormatDockerArchive + " ggcr": writeDocker(t, map[string]v1.Image{"app:1": img})}
	gz := filepath.Join(t.TempDir(), "layout.tgz")
	run(t, "sh", "-c", "gzip -c "+ociTar+" > "+gz)
	sources[FormatOCI+" gzip"] = gz
	skopeo := filepath.Join(t.TempDir(), "skopeo.tar")
	run(t, "skopeo", "--insecure-policy", "copy", "oci:"+oci, "docker-archive:"+skopeo+":app:2")
	sources[FormatDockerArchive+" skopeo"] = skopeo
	for label, source := range sources {
		t.Run(label, func(t *testing.T) {
			s := startServer(t)
			res, out := s.mustImport(t, s.importOptions(t, source))
			if format, _, _ := strings.Cut(label, " "); res.Format != format || !strings.Contains(string(res.Config), `"/bin/`+arch()+`"`) || len(res.Warnings) != 0 {
				t.Errorf("result %+v, config %s", res, res.Config)
			}
			wantSample(t, mount(t, out))
		})
	}
}

// umoci unpacks the same image to the same tree.
func TestAsUmoci(t *testing.T) {
	needRoot(t)
	umoci := tool(t, "umoci")
	img := imageOf(t, arch(), sampleLayers(t)...)
	docker := writeLayout(t, func(p layout.Path) error { return p.AppendImage(img) })
	oci := filepath.Join(t.TempDir(), "oci")
	run(t, "skopeo", "--insecure-policy", "copy", "--format", "oci", "oci:"+docker, "oci:"+oci+":v1")
	bundle := filepath.Join(t.TempDir(), "bundle")
	run(t, umoci, "unpack", "--image", oci+":v1", bundle)
	s := startServer(t)
	_, out := s.mustImport(t, s.importOptions(t, oci))
	want := strings.Split(listing(t, filepath.Join(bundle, "rootfs")), "\n")
	wantListing(t, listing(t, mount(t, out)), want...)
}

func TestChooseImage(t *testing.T) {
	needRoot(t)
	one, two := imageOf(t, arch(), tarOf(t, file("one", ""))), imageOf(t, arch(), tarOf(t, file("two", "")))
	other := imageOf(t, "sparc", tarOf(t, file("sparc", "")))
	multi := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "sparc"}}},
		mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch()}}})
	platforms := writeLayout(t, func(p layout.Path) error { return p.AppendIndex(multi, named("multi")) })
	several := writeLayout(t, func(p layout.Path) error {
		if err := p.AppendImage(one, named("app:1")); err != nil {
			return err
		}
		return p.AppendImage(two, named("app:2"))
	})
	docker := writeDocker(t, map[string]v1.Image{"app:1": one, "app:2": two})
	digest, err := two.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ source, image, platform, holds, want string }{
		{platforms, "", "", "one", ""},
		{platforms, "multi", "linux/sparc", "sparc", ""},
		{platforms, "", "linux/vax", "", "linux/sparc, linux/" + arch()},
		{platforms, "", "vax", "", "OS/ARCHITECTURE"},
		{several, "", "", "", "say which of app:1, app:2"},
		{several, "app:2", "", "two", ""},
		{several, digest.String(), "", "two", ""},
		{several, digest.Hex[:12], "", "two", ""},
		{several, "app:3", "", "", "it has app:1, app:2"},
		{docker, "docker.io/library/app:2", "", "two", ""},
		{docker, "", "", "", "holds 2 images"},
		{docker, "app:1", "linux/sparc", "", "want linux/sparc"},
	} {
		s := startServer(t)
		o := s.importOptions(t, c.source)
		o.Image, o.Platform, o.SizeBytes = c.image, c.platform, 64<<20
		if c.want != "" {
			_, err := Import(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v: error %v", c, err)
			}
			continue
		}
		_, out := s.mustImport(t, o)
		if got := run(t, "debugfs", "-R", "ls -p /", out); !strings.Contains(got, "/"+c.holds+"/") {
			t.Errorf("%+v: the image holds %s", c, got)
		}
	}
	s := startServer(t)
	o := s.importOptions(t, writeDocker(t, map[string]v1.Image{"app:1": other}))
	o.SizeBytes = 64 << 20
	if res, _ := s.mustImport(t, o); len(res.Warnings) != 1 || !strings.Contains(res.Warnings[0], "linux/sparc") {
		t.Errorf("warnings %q for an image of another machine", res.Warnings)
	}
}

// Every blob that is changed, cut short or missing is noticed.
func TestContainerDamaged(t *testing.T) {
	needRoot(t)
	img := imageOf(t, arch(), sampleLayers(t)...)
	oci := writeLayout(t, func(p layout.Path) error { return p.AppendImage(img) })
	blobs, err := filepath.Glob(filepath.Join(oci, "blobs/sha256/*"))
	if err != nil || len(blobs) != 5 {
		t.Fatalf("%d blobs (%v), want 5", len(blobs), err)
	}
	for _, blob := range blobs {
		whole, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Clone(whole)
		changed[len(changed)/2] ^= 1
		header := bytes.Clone(whole) // of a gzip stream: a time, which changes nothing else
		header[4] ^= 1
		for label, b := range map[string][]byte{"changed": changed, "header changed": header, "cut": whole[:len(whole)-1], "gone": nil, "longer": append(bytes.Clone(whole), '\n')} {
			if err := os.Remove(blob); err != nil {
				t.Fatal(err)
			}
			if b != nil {
				if err := os.WriteFile(blob, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			t.Run(label, func(t *testing.T) {
				s := startServer(t)
				s.mustRefuse(t, s.importOptions(t, oci), block.Corrupt)
			})
			if err := os.WriteFile(blob, whole, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	docker, err := os.ReadFile(writeDocker(t, map[string]v1.Image{"app:1": img}))
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{1024, len(docker) / 2, len(docker) - 1024} {
		s := startServer(t)
		o := s.importOptions(t, save(t, "docker.tar", docker[:cut]))
		o.Format = FormatDockerArchive
		s.mustRefuse(t, o, block.Corrupt)
	}
}

// A layer whose blob is as stated but whose content is not what the
// configuration says is refused.
func TestWrongDiffID(t *testing.T) {
	needRoot(t)
	img := imageOf(t, arch(), tarOf(t, file("x", "")))
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.RootFS.DiffIDs[0].Hex = strings.Repeat("ab", 32)
	bad, err := mutate.ConfigFile(img, cfg)
	if err != nil {
		t.Fatal(err)
	}
	oci := writeLayout(t, func(p layout.Path) error { return p.AppendImage(bad) })
	s := startServer(t)
	s.mustRefuse(t, s.importOptions(t, oci), block.Corrupt, "(uncompressed)", "sha256:abab")
}

func TestHostileWhiteouts(t *testing.T) {
	needRoot(t)
	for _, bad := range []string{".wh.", ".wh..", ".wh...", "a/.wh..."} {
		oci := writeLayout(t, func(p layout.Path) error {
			return p.AppendImage(imageOf(t, arch(), tarOf(t, dir("a")), tarOf(t, file(bad, ""))))
		})
		s := startServer(t)
		s.mustRefuse(t, s.importOptions(t, oci), block.Invalid, "whiteout")
	}
	// Through a link that seems to leave the root, a whiteout removes within it.
	outside := t.TempDir()
	keep := filepath.Join(outside, "keep")
	if err := os.WriteFile(keep, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	oci := writeLayout(t, func(p layout.Path) error {
		return p.AppendImage(imageOf(t, arch(), tarOf(t, symlink("esc", outside), dir(outside[1:]), file(outside[1:]+"/keep", "")),
			tarOf(t, file("esc/.wh.keep", ""), file("esc/.wh..wh..opq", ""))))
	})
	s := startServer(t)
	_, out := s.mustImport(t, s.importOptions(t, oci))
	if got := listing(t, mount(t, out)); strings.Contains(got, "/keep") {
		t.Errorf("the whiteout removed nothing: %s", got)
	}
	if _, err := os.Stat(keep); err != nil {
		t.Errorf("a whiteout reached outside: %v", err)
	}
}
