package drive

import (
	"context"
	"os"
	"path/filepath"
	"time"

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
	d.fresh = func(ctx context.Context) error {
		d.Stop()
		for _, dir := range []string{"stargz", "stargz-grpc"} {
			if err := os.RemoveAll(filepath.Join(b.dir, dir)); err != nil {
				return err
			}
		}
		return d.Start(ctx)
	}
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
	return d.containerDriver.Push(ctx, i)
}
