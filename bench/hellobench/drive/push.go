package drive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/image-spec/identity"

	"github.com/slackerd/slacker/naming"
)

// Push makes an image of a container's root with one file more than the image has:
// a snapshot of the server, and a manifest in the registry that the base is in.
func (d *snapshotterDriver) Push(ctx context.Context, i Image) (took time.Duration, err error) {
	ref, err := d.ref(d.bed.Registry, i)
	if err != nil {
		return 0, err
	}
	image, err := d.client.GetImage(d.context(ctx), ref)
	if err != nil {
		return 0, err
	}
	layers, err := image.RootFS(d.context(ctx))
	if err != nil {
		return 0, err
	}
	// A snapshot that no lease holds is garbage to containerd.
	held, release, err := d.client.WithLease(d.context(ctx))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, release(d.context(context.WithoutCancel(ctx)))) }()
	key, service := "push-"+i.file(), d.client.SnapshotService(d.containerDriver.snapshotter)
	mounts, err := service.Prepare(held, key, identity.ChainID(layers).String())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, service.Remove(context.WithoutCancel(held), key)) }()
	if len(mounts) != 1 {
		return 0, fmt.Errorf("push %s: got %d mounts, want one", i.Name, len(mounts))
	}
	root := mounts[0].Source
	if err := os.WriteFile(filepath.Join(root, "pushed"), []byte(key), 0o600); err != nil {
		return 0, err
	}
	before, err := d.bed.volumes(ctx)
	if err != nil {
		return 0, err
	}
	of := slices.IndexFunc(before, func(name string) bool { return path.Base(name) == filepath.Base(root) })
	if of < 0 {
		return 0, fmt.Errorf("push %s: no volume of %s among %q", i.Name, root, before)
	}
	to := ref[:strings.LastIndex(ref, ":")] + ":pushed"
	started := time.Now()
	err = d.bed.ctlFrom(ctx, d.bed.Link.Worker, nil, "image", "push", before[of], "docker://"+to, "--on", "docker://"+ref, "--freeze", root, "--plain-http")
	took = time.Since(started)
	return took, errors.Join(err, d.bed.removeChains(context.WithoutCancel(ctx), before))
}

// volumes are the names of the server's volumes.
func (b *Bed) volumes(ctx context.Context) ([]string, error) {
	var list struct {
		Volumes []struct {
			Name string `json:"name"`
		} `json:"volumes"`
	}
	err := b.ctl(ctx, &list, "volume", "list")
	names := make([]string, len(list.Volumes))
	for i, v := range list.Volumes {
		names[i] = v.Name
	}
	return names, err
}

// removeChains removes the chains that were not there before.
func (b *Bed) removeChains(ctx context.Context, before []string) error {
	now, err := b.volumes(ctx)
	for _, name := range now {
		if strings.HasPrefix(name, naming.DefaultPrefix.Chains()) && !slices.Contains(before, name) {
			err = errors.Join(err, b.ctl(ctx, nil, "volume", "rm", name, "--with-snapshots"))
		}
	}
	return err
}

var _ Pusher = (*snapshotterDriver)(nil)
