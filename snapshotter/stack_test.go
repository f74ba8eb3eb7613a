package snapshotter

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/slackerd/slacker/stack"
)

// host is a worker: a snapshotter as a process of its own, and a containerd.
type host struct {
	t          *testing.T
	f          *testServer
	dir        string
	snapshot   *stack.Process
	containerd *stack.Containerd
}

// needStack returns the programs, or skips.
func needStack(t *testing.T) stack.Programs {
	t.Helper()
	needDevices(t)
	programs, err := stack.FindPrograms()
	if err != nil {
		t.Skip("skipped: ", err)
	}
	return programs
}

// shortDir returns a directory whose name leaves room for names of sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sn")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (h *host) address() string { return filepath.Join(h.dir, "sn.sock") }

func (h *host) startSnapshotter() {
	h.t.Helper()
	p, err := stack.StartProcess(h.t.Context(), stack.Command{
		Name: "slacker-snapshotter", Log: filepath.Join(h.dir, "snapshotter.log"),
		Args: []string{h.f.bin + "slacker-snapshotter", "--server", h.f.apiURL, "--listen", h.address(), "--root", filepath.Join(h.dir, "sn"),
			"--state-dir", filepath.Join(h.dir, "sn", "attached"), "--driver", "fuse", "--size", "1GiB", "--timeout", "10s"},
		Ready: func(context.Context) error { _, err := os.Stat(h.address()); return err },
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.snapshot = p
}

// unpackConfig makes containerd's transfer service unpack with the snapshotter.
const unpackConfig = `
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux/amd64"
snapshotter = "overlayfs"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux/amd64"
snapshotter = "slacker"
`

// startHost starts a worker.
func startHost(t *testing.T, f *testServer, programs stack.Programs, v stack.Version, config string) *host {
	t.Helper()
	h := &host{t: t, f: f, dir: shortDir(t)}
	h.startSnapshotter()
	t.Cleanup(h.end)
	if v == stack.V2 {
		config += unpackConfig
	}
	c, err := stack.StartContainerd(t.Context(), stack.ContainerdOptions{Programs: programs, Version: v, Dir: filepath.Join(h.dir, "c"),
		Plugins: []stack.ProxyPlugin{{Name: "slacker", Address: h.address()}}, Config: config})
	if err != nil {
		t.Fatal(err)
	}
	h.containerd = c
	return h
}

// end stops everything and wants nothing to be left.
func (h *host) end() {
	h.containerd.Stop()
	h.snapshot.Stop()
	if h.t.Failed() {
		b, _ := os.ReadFile(filepath.Join(h.dir, "snapshotter.log"))
		h.t.Logf("snapshotter of %s: %s", h.dir, b)
	}
	s, err := h.f.open(filepath.Join(h.dir, "sn"), func(o *Options) { o.SizeBytes = 1 << 30 })
	if err != nil {
		h.t.Error(err)
		return
	}
	if err := emptyOut(s); err != nil {
		h.t.Error(err)
	}
}

func (h *host) ctr(args ...string) string {
	h.t.Helper()
	out, err := h.containerd.Ctr(h.t.Context(), args...)
	if err != nil {
		h.t.Fatalf("ctr %v: %v", args, err)
	}
	return out
}

// pull pulls with the label of chains, as CRI and nerdctl do with any version:
// ctr of 1.6 fetches everything before it unpacks.
func (h *host) pull(ref string) {
	h.t.Helper()
	h.ctr("images", "pull", "--plain-http", "--snapshotter", "slacker", ref)
}

// pushImage makes an image of busybox and layers of random data, and pushes it.
func pushImage(t *testing.T, r *stack.Registry, repository string, layers int, layerBytes int64) string {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("skipped: wants busybox-static: ", err)
	}
	image := appendLayer(t, empty.Image, tarFile{"bin/busybox", busybox, 0o755})
	for i := range layers {
		data := make([]byte, layerBytes)
		_, _ = rand.Read(data)
		image = appendLayer(t, image, tarFile{fmt.Sprintf("data/%d", i), data, 0o644}, tarFile{"data/last", []byte(fmt.Sprint(i)), 0o644})
	}
	c, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if image, err = mutate.ConfigFile(image, &v1.ConfigFile{Architecture: "amd64", OS: "linux", RootFS: c.RootFS}); err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(r.Addr() + "/" + repository + ":latest")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
	return ref.Name()
}

type tarFile struct {
	name string
	data []byte
	mode int64
}

func appendLayer(t *testing.T, image v1.Image, files ...tarFile) v1.Image {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
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
	if image, err = mutate.AppendLayers(image, l); err != nil {
		t.Fatal(err)
	}
	return image
}

// startStack starts slackerd and a registry, with what workers need.
func startStack(t *testing.T) (*testServer, *stack.Registry, stack.Programs) {
	t.Helper()
	programs := needStack(t)
	f := startServer(t)
	r, err := stack.StartRegistry(t.Context(), stack.RegistryOptions{Programs: programs, Dir: shortDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	return f, r, programs
}

// TestSecondWorkerPullsNothing: what one worker has unpacked, another has
// without its layers going over the network, and both run it.
func TestSecondWorkerPullsNothing(t *testing.T) {
	f, r, programs := startStack(t)
	ref := pushImage(t, r, "layers", 4, 1<<20)
	first := startHost(t, f, programs, stack.V2, "")
	before := r.Counts().Sent
	first.pull(ref)
	if moved := r.Counts().Sent - before; moved < 4<<20 {
		t.Fatalf("the first pull moved %d bytes, want the layers", moved)
	}
	second := startHost(t, f, programs, stack.V2, "")
	before = r.Counts().Sent
	second.pull(ref)
	if moved := r.Counts().Sent - before; moved > 100<<10 {
		t.Errorf("the second pull moved %d bytes, want less than 100 KiB", moved)
	}
	for i, h := range []*host{first, second} {
		out := h.ctr("run", "--rm", "--snapshotter", "slacker", "--net-host", ref, fmt.Sprintf("sn-%d", i), "/bin/busybox", "cat", "/data/last")
		if strings.TrimSpace(out) != "3" {
			t.Errorf("worker %d: the top layer says %q, want 3", i, out)
		}
	}
}
