package drive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/slackerd/slacker/bench/hellobench/catalog"
	"github.com/slackerd/slacker/bench/hellobench/link"
	"github.com/slackerd/slacker/naming"
	"github.com/slackerd/slacker/stack"
)

// BedOptions say what a bed is made of.
type BedOptions struct {
	Link     link.Spec
	Cache    string // images and what is made of them; kept
	Programs stack.Programs
	Bin      string // slackerd, slackerctl, slacker-client
	Version  stack.Version
	Slots    int // how many tasks may run at once
	// StargzLevel is the gzip level of conversions to eStargz.
	StargzLevel int
	// Background lets stargz fetch the rest of an image after it was mounted.
	Background bool
}

// Bed is what the drivers of a run share.
type Bed struct {
	BedOptions
	Link     *link.Link
	Registry *stack.Registry // has the image set; written to while preparing
	Scratch  *stack.Registry // is pushed to

	dir    string // of the worker, short
	server *slackerd

	mu      sync.Mutex
	sources map[string]string // snapshots of slackerd, by digest of the image

	slots chan stack.Namespace
	made  []stack.Namespace
}

// NewBed makes the link and starts the servers.
func NewBed(ctx context.Context, o BedOptions) (_ *Bed, err error) {
	b := &Bed{BedOptions: o, sources: map[string]string{}, slots: make(chan stack.Namespace, o.Slots)}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	sweep()
	prefix := fmt.Sprintf("hb%d", os.Getpid())
	if b.dir, err = os.MkdirTemp("", prefix+"-"); err != nil {
		return nil, err
	}
	if b.Link, err = link.New(ctx, prefix, o.Link); err != nil {
		return nil, err
	}
	for n := range o.Slots {
		ns, err := newNamespace(ctx, fmt.Sprintf("%s-%d", prefix, n))
		if err != nil {
			return nil, err
		}
		b.made = append(b.made, ns)
		b.slots <- ns
	}
	// A fixed port: what is converted is found by its reference in later runs too.
	b.Registry, err = stack.StartRegistry(ctx, stack.RegistryOptions{
		Programs: o.Programs, Dir: filepath.Join(b.dir, "registry"), Storage: filepath.Join(o.Cache, "registry"),
		Netns: b.Link.Server, Listen: link.ServerAddress + ":5000",
	})
	if err != nil {
		return nil, err
	}
	b.Scratch, err = stack.StartRegistry(ctx, stack.RegistryOptions{
		Programs: o.Programs, Dir: filepath.Join(b.dir, "scratch"), Netns: b.Link.Server, Listen: link.ServerAddress + ":5001",
	})
	return b, err
}

// Close ends what NewBed started. Drivers are stopped before.
func (b *Bed) Close() error {
	b.server.stop()
	b.Scratch.Stop()
	b.Registry.Stop()
	var errs []error
	for _, ns := range b.made {
		errs = append(errs, removeNamespace(ns))
	}
	if b.Link != nil {
		errs = append(errs, b.Link.Close())
	}
	if left := stack.MountsBelow(b.dir); len(left) > 0 {
		return errors.Join(append(errs, fmt.Errorf("still mounted: %s", strings.Join(left, " ")))...)
	}
	return errors.Join(append(errs, os.RemoveAll(b.dir))...)
}

// slot takes a namespace for a task; give puts it back.
func (b *Bed) slot(ctx context.Context) (stack.Namespace, error) {
	select {
	case ns := <-b.slots:
		return ns, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (b *Bed) give(ns stack.Namespace) { b.slots <- ns }

// resetScratch empties the registry that is pushed to.
func (b *Bed) resetScratch(ctx context.Context) error {
	b.Scratch.Stop()
	dir := filepath.Join(b.dir, "scratch")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	var err error
	b.Scratch, err = stack.StartRegistry(ctx, stack.RegistryOptions{Programs: b.Programs, Dir: dir, Netns: b.Link.Server, Listen: link.ServerAddress + ":5001"})
	return err
}

// mountFiles writes the files that a task wants mounted; empty if it wants none.
func (b *Bed) mountFiles(i Image) (string, error) {
	if i.Task.Mount == "" {
		return "", nil
	}
	dir, err := os.MkdirTemp(b.dir, "files")
	if err != nil {
		return "", err
	}
	for file, text := range i.Task.Files {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	return dir, os.Chmod(dir, 0o777)
}

// Remote are the options to reach a registry from one end of the link.
func Remote(ctx context.Context, ns stack.Namespace) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithTransport(&http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return ns.DialContext(ctx, network, address)
		},
		MaxIdleConnsPerHost: 8, IdleConnTimeout: 10 * time.Second, DisableCompression: true,
	})}
}

// Ref is the reference of an image in a registry, below a path that may be empty.
func Ref(r *stack.Registry, path, image string) (name.Reference, error) {
	ref := r.Addr() + "/" + path + image
	if !strings.Contains(image, ":") {
		ref += ":latest"
	}
	return name.ParseReference(ref, name.Insecure)
}

// Fetch is the image as the registry has it, from the server's end.
func (b *Bed) Fetch(ctx context.Context, path, image string) (v1.Image, error) {
	ref, err := Ref(b.Registry, path, image)
	if err != nil {
		return nil, err
	}
	return remote.Image(ref, Remote(ctx, b.Link.Server)...)
}

// slackerd is a running server.
type slackerd struct {
	process *stack.Process
	url     string // of its API
	nbd     string // HOST:PORT
}

func (s *slackerd) stop() {
	if s != nil {
		s.process.Stop()
	}
}

// Slackerd starts the server, once.
func (b *Bed) Slackerd(ctx context.Context) (*slackerd, error) {
	if b.server != nil {
		return b.server, nil
	}
	const nbd, admin = link.ServerAddress + ":10809", link.ServerAddress + ":10808"
	s := &slackerd{url: "http://" + admin, nbd: nbd}
	p, err := stack.StartProcess(ctx, stack.Command{
		Name: "slackerd", Netns: b.Link.Server, Log: filepath.Join(b.dir, "slackerd.log"),
		Args: []string{filepath.Join(b.Bin, "slackerd"), "serve", "--allow-insecure-listen", "--data-dir", b.dataDir(),
			"--nbd-listen", "tcp://" + nbd, "--api-listen", "tcp://" + admin},
		Ready: func(ctx context.Context) error {
			c, err := b.Link.Server.DialContext(ctx, "tcp", admin)
			if err != nil {
				return err
			}
			return c.Close()
		},
	})
	if err != nil {
		return nil, err
	}
	s.process = p
	b.server = s
	return s, nil
}

func (b *Bed) dataDir() string { return filepath.Join(b.Cache, "slackerd") }

// Boot traces are files in slackerd's directory, which it reads when something is
// attached; they are hints, and may go at any time.
func (b *Bed) traces() string { return filepath.Join(b.dataDir(), "traces") }

func (b *Bed) unlearn() error { return os.RemoveAll(b.traces()) }

func (b *Bed) learned() bool { return len(glob(filepath.Join(b.traces(), "*.trace"))) > 0 }

// ctl runs slackerctl at the server's end and reads its JSON answer.
func (b *Bed) ctl(ctx context.Context, answer any, args ...string) error {
	return b.ctlFrom(ctx, b.Link.Server, answer, args...)
}

func (b *Bed) ctlFrom(ctx context.Context, ns stack.Namespace, answer any, args ...string) error {
	s, err := b.Slackerd(ctx)
	if err != nil {
		return err
	}
	out, err := command(ctx, ns, append([]string{filepath.Join(b.Bin, "slackerctl"), "--server", s.url, "--json"}, args...)...)
	if err != nil || answer == nil {
		return err
	}
	return json.Unmarshal([]byte(out), answer)
}

// Lookup finds an image in the registry.
func (b *Bed) Lookup(ctx context.Context, name string, t catalog.Task) (Image, error) {
	img, err := b.Fetch(ctx, "", name)
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", name, err)
	}
	sum, err := img.Digest()
	if err != nil {
		return Image{}, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return Image{}, err
	}
	var diffs []digest.Digest
	for _, d := range config.RootFS.DiffIDs {
		diffs = append(diffs, digest.Digest(d.String()))
	}
	chain := naming.DefaultPrefix.Place(identity.ChainID(diffs).String())
	return Image{Name: name, Digest: sum.String(), Chain: chain, Config: config.Config, Task: t}, nil
}
