package drive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slackerd/slacker/stack"
)

// containerdNamespace is containerd's namespace for what is run here.
const containerdNamespace = "hello"

// containerDriver runs images by containerd with a snapshotter.
type containerDriver struct {
	bed         *Bed
	name        string
	snapshotter string
	path        string // of the repositories it pulls from
	lazy        bool   // the snapshotter wants to know where layers come from

	prepare func(context.Context, Image) error
	// plugin starts the snapshotter, if it is one of its own.
	plugin func(context.Context) (stack.ProxyPlugin, error)
	// unplug stops it, after containerd.
	unplug func()
	// keeps are directories of the worker below the bed's. Where there are any, Forget
	// starts a worker anew that has nothing in them: removing the image is not enough.
	keeps []string

	daemon *stack.Containerd
	client *containerd.Client
}

// overlayDriver is containerd with overlayfs.
type overlayDriver struct{ containerDriver }

// NewOverlayfs is the driver "overlayfs": containerd as everybody has it.
func NewOverlayfs(b *Bed) Driver {
	return &overlayDriver{containerDriver{bed: b, name: "overlayfs", snapshotter: "overlayfs"}}
}

// Push pushes what was pulled.
func (d *overlayDriver) Push(ctx context.Context, i Image) (time.Duration, error) {
	return d.push(ctx, i)
}

func (d *containerDriver) Name() string { return d.name }

func (d *containerDriver) Start(ctx context.Context) error {
	o := stack.ContainerdOptions{Programs: d.bed.Programs, Version: d.bed.Version, Dir: filepath.Join(d.bed.dir, d.name), Netns: d.bed.Link.Worker}
	if d.plugin != nil {
		p, err := d.plugin(ctx)
		if err != nil {
			return err
		}
		o.Plugins = []stack.ProxyPlugin{p}
	}
	var err error
	if d.daemon, err = stack.StartContainerd(ctx, o); err != nil {
		return err
	}
	d.client, err = containerd.New(d.daemon.Address, containerd.WithDefaultNamespace(containerdNamespace))
	return err
}

func (d *containerDriver) Stop() {
	if d.client != nil {
		_ = d.client.Close() // the daemon ends next
	}
	d.daemon.Stop()
	if d.unplug != nil {
		d.unplug()
	}
}

func (d *containerDriver) Prepare(ctx context.Context, i Image) error {
	if d.prepare == nil {
		return nil
	}
	return d.prepare(ctx, i)
}

// ref is the reference an image is pulled by.
func (d *containerDriver) ref(r *stack.Registry, i Image) (string, error) {
	ref, err := Ref(r, d.path, i.Name)
	if err != nil {
		return "", err
	}
	return ref.Name(), nil
}

// resolver reaches the registries from the worker's end, without TLS.
func (d *containerDriver) resolver() remotes.Resolver {
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return d.bed.Link.Worker.DialContext(ctx, network, address)
		},
		MaxIdleConnsPerHost: 8, IdleConnTimeout: 10 * time.Second, DisableCompression: true,
	}}
	all := func(string) (bool, error) { return true, nil }
	return docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(
		docker.WithPlainHTTP(all), docker.WithClient(client))})
}

func (d *containerDriver) context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, containerdNamespace)
}

func (d *containerDriver) Pull(ctx context.Context, i Image) error {
	ref, err := d.ref(d.bed.Registry, i)
	if err != nil {
		return err
	}
	opts := []containerd.RemoteOpt{
		containerd.WithPullUnpack, containerd.WithPullSnapshotter(d.snapshotter), containerd.WithResolver(d.resolver()),
	}
	if d.lazy {
		opts = append(opts, containerd.WithImageHandlerWrapper(snapshotters.AppendInfoHandlerWrapper(ref)))
	}
	_, err = d.client.Pull(d.context(ctx), ref, opts...)
	return err
}

// container is a container under way to hello.
type container struct {
	running
	client containerd.Container
	task   containerd.Task
	files  string
}

func (d *containerDriver) Run(ctx context.Context, i Image, id string) (*Started, error) {
	ctx = d.context(ctx)
	ref, err := d.ref(d.bed.Registry, i)
	if err != nil {
		return nil, err
	}
	c := &container{}
	end := func(ctx context.Context) error { return c.end(d.context(ctx)) }
	if c.files, err = d.bed.mountFiles(i); err != nil {
		return nil, err
	}
	watch := startWatch()
	err = d.start(ctx, c, i, ref, id, watch)
	if err == nil {
		err = c.hello(ctx, i.Task)
	}
	if err != nil {
		return nil, errors.Join(err, end(context.WithoutCancel(ctx)))
	}
	watch.lap("hello")
	return &Started{Phases: watch.phases, Pid: int(c.task.Pid()), End: end}, nil
}

func (d *containerDriver) start(ctx context.Context, c *container, i Image, ref, id string, watch *stopwatch) error {
	image, err := d.client.GetImage(ctx, ref)
	if err != nil {
		return err
	}
	opts := []oci.SpecOpts{oci.WithImageConfigArgs(image, i.Task.Args), oci.WithEnv(i.Task.Env)}
	if c.files != "" {
		opts = append(opts, oci.WithMounts([]specs.Mount{{
			Type: "bind", Source: c.files, Destination: i.Task.Mount, Options: []string{"rbind", "rw"},
		}}))
	}
	c.client, err = d.client.NewContainer(ctx, id, containerd.WithImage(image), containerd.WithSnapshotter(d.snapshotter),
		containerd.WithNewSnapshot(id, image), containerd.WithNewSpec(opts...))
	if err != nil {
		return err
	}
	watch.lap("root")
	out := newOutput(wanted(i.Task))
	var stdin io.Reader
	written := make(chan struct{})
	if i.Task.Stdin != "" {
		stdin = &endingReader{Reader: strings.NewReader(i.Task.Stdin), ended: written}
	}
	c.task, err = c.client.NewTask(ctx, cio.NewCreator(cio.WithStreams(stdin, out, out), cio.WithFIFODir(filepath.Join(d.bed.dir, "fifo"))))
	if err != nil {
		return err
	}
	watch.lap("create")
	status, err := c.task.Wait(ctx)
	if err != nil {
		return err
	}
	pid := c.task.Pid()
	c.running = running{out: out, exited: c.watch(status), dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		return stack.Namespace(fmt.Sprintf("/proc/%d/ns/net", pid)).DialContext(ctx, network, address)
	}}
	if err := c.task.Start(ctx); err != nil || stdin == nil {
		return err
	}
	select {
	case <-written:
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.task.CloseIO(ctx, containerd.WithStdinCloser)
}

// endingReader tells when all was read: the shim holds the pipe open until it is
// told to close it.
type endingReader struct {
	io.Reader
	ended chan struct{}
	once  sync.Once
}

func (r *endingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil {
		r.once.Do(func() { close(r.ended) })
	}
	return n, err
}

// watch turns containerd's exit into ours, once the output was read.
func (c *container) watch(status <-chan containerd.ExitStatus) <-chan exit {
	exited := make(chan exit, 1)
	go func() {
		s := <-status
		c.task.IO().Wait()
		exited <- exit{int(s.ExitCode()), s.Error()}
	}()
	return exited
}

// end kills the container and removes it, as far as it got.
func (c *container) end(ctx context.Context) error {
	var errs []error
	if c.task != nil {
		if status, err := c.task.Wait(ctx); err == nil {
			if err := c.task.Kill(ctx, syscall.SIGKILL, containerd.WithKillAll); err == nil {
				<-status
			} else if !errdefs.IsNotFound(err) {
				errs = append(errs, err)
			}
		}
		_, err := c.task.Delete(ctx, containerd.WithProcessKill)
		errs = append(errs, err)
	}
	if c.client != nil {
		errs = append(errs, c.client.Delete(ctx, containerd.WithSnapshotCleanup))
	}
	if c.files != "" {
		errs = append(errs, os.RemoveAll(c.files))
	}
	return errors.Join(errs...)
}

func (d *containerDriver) Forget(ctx context.Context, i Image) error {
	ref, err := d.ref(d.bed.Registry, i)
	if err != nil {
		return err
	}
	err = d.client.ImageService().Delete(d.context(ctx), ref, images.SynchronousDelete())
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if len(d.keeps) == 0 {
		return nil
	}
	d.Stop()
	for _, dir := range d.keeps {
		if err := os.RemoveAll(filepath.Join(d.bed.dir, dir)); err != nil {
			return err
		}
	}
	return d.Start(ctx)
}

// push pushes what is in the content store to a registry that has nothing.
func (d *containerDriver) push(ctx context.Context, i Image) (time.Duration, error) {
	if err := d.bed.resetScratch(ctx); err != nil {
		return 0, err
	}
	from, err := d.ref(d.bed.Registry, i)
	if err != nil {
		return 0, err
	}
	to, err := d.ref(d.bed.Scratch, i)
	if err != nil {
		return 0, err
	}
	image, err := d.client.ImageService().Get(d.context(ctx), from)
	if err != nil {
		return 0, err
	}
	started := time.Now()
	err = d.client.Push(d.context(ctx), to, image.Target, containerd.WithResolver(d.resolver()))
	return time.Since(started), err
}

// fetchContent brings all layers of an image into the content store.
func (d *containerDriver) fetchContent(ctx context.Context, ref string) error {
	_, err := d.client.Fetch(d.context(ctx), ref, containerd.WithResolver(d.resolver()))
	return err
}
