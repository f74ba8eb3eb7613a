package drive

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/stack"
)

// stargzDriver is containerd with the stargz snapshotter.
type stargzDriver struct {
	containerDriver
	peer *stack.Stargz
}

// NewStargz is the driver "stargz": containerd with lazy loading by files.
func NewStargz(b *Bed) Driver {
	d := &stargzDriver{containerDriver: containerDriver{bed: b, name: "stargz", snapshotter: "stargz", path: stargzPath, lazy: true}}
	d.prepare = b.convertStargz
	d.plugin = func(ctx context.Context) (stack.ProxyPlugin, error) {
		var err error
		d.peer, err = stack.StartStargz(ctx, stack.StargzOptions{
			Programs: b.Programs, Dir: filepath.Join(b.dir, "stargz-grpc"), Netns: b.Link.Worker,
			Registry: b.Registry.Addr(), BackgroundFetch: b.Background,
		})
		if err != nil {
			return stack.ProxyPlugin{}, err
		}
		return d.peer.Plugin, nil
	}
	d.unplug = func() { d.peer.Stop() }
	// It keeps what it has fetched for a while, also of layers that are gone.
	d.keeps = []string{"stargz", "stargz-grpc"}
	return d
}

// Push has to have the layers first, which a lazy pull does not bring.
func (d *stargzDriver) Push(ctx context.Context, i Image) (time.Duration, error) {
	ref, err := d.ref(d.bed.Registry, i)
	if err != nil {
		return 0, err
	}
	if err := d.fetchContent(ctx, ref); err != nil {
		return 0, err
	}
	return d.push(ctx, i)
}

// snapshotterDriver is containerd with our snapshotter.
type snapshotterDriver struct {
	containerDriver
	snapshotter *stack.Process
}

// NewSnapshotter is the driver "slacker-containerd": containerd with chains that
// all workers share. The first worker that unpacks an image pays, here in Prepare.
func NewSnapshotter(b *Bed) Driver {
	d := &snapshotterDriver{containerDriver: containerDriver{bed: b, name: "slacker-containerd", snapshotter: "slacker"}}
	dir := filepath.Join(b.dir, "sn")
	socket := filepath.Join(dir, "sock")
	d.plugin = func(ctx context.Context) (stack.ProxyPlugin, error) {
		s, err := b.Slackerd(ctx)
		if err != nil {
			return stack.ProxyPlugin{}, err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return stack.ProxyPlugin{}, err
		}
		d.snapshotter, err = stack.StartProcess(ctx, stack.Command{
			Name: "slacker-snapshotter", Netns: b.Link.Worker, Log: filepath.Join(dir, "log"),
			Args: []string{filepath.Join(b.Bin, "slacker-snapshotter"), "--server", s.url, "--listen", socket, "--root", filepath.Join(dir, "root"),
				"--state-dir", filepath.Join(dir, "attached")},
			Ready: func(context.Context) error { _, err := os.Stat(socket); return err },
		})
		return stack.ProxyPlugin{Name: "slacker", Address: socket}, err
	}
	// It may keep what was read, also of images that are gone.
	d.keeps = []string{d.name, "sn"}
	// What it has attached and mounted outlives it, for the one that is started next.
	d.unplug = func() {
		d.snapshotter.Stop()
		for _, at := range slices.Backward(stack.MountsBelow(filepath.Join(dir, "root"))) {
			_ = unix.Unmount(at, 0) // the bed says what is still mounted
		}
		b.detachAll(filepath.Join(dir, "attached"), false)
	}
	d.prepare = func(ctx context.Context, i Image) error {
		if b.ctl(ctx, nil, "snapshot", "show", i.Chain) == nil {
			return nil // a worker has unpacked it
		}
		if err := d.Pull(ctx, i); err != nil {
			return err
		}
		return d.Forget(ctx, i)
	}
	return d
}

// Unlearn and Learned make it a Learner.
func (d *snapshotterDriver) Unlearn() error { return d.bed.unlearn() }

// Learned tells whether a start has told the server what it has read.
func (d *snapshotterDriver) Learned() bool { return d.bed.learned() }
