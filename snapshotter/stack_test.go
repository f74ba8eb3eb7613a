package snapshotter

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/naming"
	"github.com/slackerd/slacker/stack"
)

// host is a worker: a snapshotter as a process of its own, and a containerd.
type host struct {
	t          *testing.T
	f          *testServer
	dir        string
	snapshot   *stack.Process
	start      stack.ContainerdOptions
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
	if v.IsV2() {
		config += unpackConfig
	}
	h.start = stack.ContainerdOptions{Programs: programs, Version: v, Dir: filepath.Join(h.dir, "c"),
		Plugins: []stack.ProxyPlugin{{Name: "slacker", Address: h.address()}}, Config: config}
	h.startContainerd()
	return h
}

func (h *host) startContainerd() {
	h.t.Helper()
	c, err := stack.StartContainerd(h.t.Context(), h.start)
	if err != nil {
		h.t.Fatal(err)
	}
	h.containerd = c
}

// end stops everything and wants nothing to be left.
func (h *host) end() {
	h.containerd.Stop()
	h.snapshot.Stop()
	if h.t.Failed() {
		b, _ := os.ReadFile(filepath.Join(h.dir, "snapshotter.log"))
		h.t.Logf("snapshotter of %s: %s", h.dir, b)
		h.t.Logf("containerd: %s", h.containerd.Process().LogTail())
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

// pull pulls as CRI, nerdctl and ctr of containerd 2 do; ctr of 1.6 fetches all
// layers before it asks the snapshotter.
func (h *host) pull(ref string) {
	h.t.Helper()
	h.pullWith(ref, "slacker", true)
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

// versions are the containerds that are installed.
func versions(t *testing.T, programs stack.Programs) []stack.Version {
	t.Helper()
	there, missing := programs.Containerds()
	if len(missing) > 0 {
		t.Logf("without the containerds %v: scripts/stack.sh installs them", missing)
	}
	return there
}

// newest are those versions too, but with -short the newest alone.
func newest(t *testing.T, programs stack.Programs) []stack.Version {
	t.Helper()
	all := versions(t, programs)
	if testing.Short() && len(all) > 1 {
		t.Logf("-short: of %v the last alone", all)
		all = all[len(all)-1:]
	}
	return all
}

// pullsNothing pulls what the server has, and runs it.
func (h *host) pullsNothing(r *stack.Registry, ref, want string) {
	h.t.Helper()
	before := r.Counts().Sent
	h.pull(ref)
	if moved := r.Counts().Sent - before; moved > 100<<10 {
		h.t.Errorf("the pull moved %d bytes, want less than 100 KiB", moved)
	}
	h.runs(ref, want)
}

// runs runs containers: one beside one that is running, on clones of their own.
func (h *host) runs(ref, want string) {
	h.t.Helper()
	h.ctr("run", "-d", "--snapshotter", "slacker", "--net-host", ref, h.id(), "/bin/busybox", "sleep", "1000")
	out := h.ctr("run", "--rm", "--snapshotter", "slacker", "--net-host", ref, h.id()+"-2", "/bin/busybox", "cat", "/data/last")
	if strings.TrimSpace(out) != want {
		h.t.Errorf("the top layer says %q, want %s", out, want)
	}
	h.exec("touch", "/data/own")
	if out = h.exec("ls", "/data"); !strings.Contains(out, "own") {
		h.t.Errorf("the container does not see its own file in %q", out)
	}
}

// TestSecondWorkerPullsNothing: what one worker has unpacked, another has
// without its layers going over the network, and both run it. Containers go on
// after slackerd, the snapshotter and containerd were killed, and new ones start.
func TestSecondWorkerPullsNothing(t *testing.T) {
	f, r, programs := startStack(t)
	for _, v := range versions(t, programs) {
		t.Run(string(v), func(t *testing.T) {
			ref := pushImage(t, r, "layers-"+string(v), 4, 1<<20)
			first := startHost(t, f, programs, v, "")
			before := r.Counts().Sent
			first.pull(ref)
			if moved := r.Counts().Sent - before; moved < 4<<20 {
				t.Fatalf("the first pull moved %d bytes, want the layers", moved)
			}
			second := startHost(t, f, programs, v, "")
			second.pullsNothing(r, ref, "3")
			first.runs(ref, "3")
			first.killAll()
			if out := first.exec("ls", "/data"); !strings.Contains(out, "own") {
				t.Errorf("after everything was killed the container sees %q", out)
			}
			first.ctr("tasks", "rm", "-f", first.id())
			first.ctr("containers", "rm", first.id())
			first.runs(ref, "3")
		})
	}
}

// killAll kills slackerd, the snapshotter and containerd beside a container that
// runs, and starts them again.
func (h *host) killAll() {
	h.t.Helper()
	// slackerd last: a process that waits for it in the kernel cannot be killed.
	h.snapshot.Kill()
	h.containerd.KillDaemon()
	h.f.kill()
	h.f.start()
	h.startSnapshotter()
	h.startContainerd()
	h.awaitSnapshotter()
}

func (h *host) id() string { return "sn-" + filepath.Base(h.dir) }

// exec runs a command in the container that runs runs.
func (h *host) exec(args ...string) string {
	h.t.Helper()
	return h.execIn(h.id(), args...)
}

func (h *host) execIn(id string, args ...string) string {
	h.t.Helper()
	return h.ctr(append([]string{"tasks", "exec", "--exec-id", "x" + rand.Text()[:6], id, "/bin/busybox"}, args...)...)
}

// TestImportedImage: an image whose layers were imported is pulled without them.
func TestImportedImage(t *testing.T) {
	f, r, programs := startStack(t)
	ref := pushImage(t, r, "imported", 3, 1<<20)
	dir := filepath.Join(t.TempDir(), "layout")
	parsed, err := name.ParseReference(ref)
	must(t, err)
	image, err := remote.Image(parsed)
	must(t, err)
	path, err := layout.Write(dir, empty.Index)
	must(t, err)
	must(t, path.AppendImage(image))
	for _, want := range []string{"unpacked", "was there"} {
		args := []string{f.bin + "slacker-snapshotter", "import", dir, "--driver", "fuse"}
		if want == "was there" { // the same by the admin's program
			args = []string{f.bin + "slackerctl", "image", "import", dir, "--layers"}
		}
		out, err := exec.Command(args[0], append(args[1:], "--server", f.apiURL, "--size", "1GiB")...).CombinedOutput()
		if err != nil || strings.Count(string(out), want) != 4 {
			t.Fatalf("import: %v, %s, want 4 times %q", err, out, want)
		}
	}
	if left, err := f.left(t); err != nil || len(left) > 0 {
		t.Errorf("the imports left %v, %v", left, err)
	}
	for _, v := range newest(t, programs) {
		startHost(t, f, programs, v, "").pullsNothing(r, ref, "2")
	}
}

// left lists the volumes of workers.
func (f *testServer) left(t *testing.T) ([]string, error) {
	t.Helper()
	c, err := api.NewClient(f.apiURL)
	must(t, err)
	return (&server{c}).list(t.Context(), naming.DefaultPrefix.Work())
}
