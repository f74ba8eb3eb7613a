package drive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// snapshot is the name of an image's snapshot at slackerd.
func (i Image) snapshot() string { return i.volume() + "@v1" }

func (i Image) volume() string {
	_, hex, _ := strings.Cut(i.Digest, ":")
	return "hello/" + strings.ReplaceAll(i.Name, ":", "-") + "/" + hex[:min(12, len(hex))]
}

// file is a name for files of an image.
func (i Image) file() string { return strings.ReplaceAll(i.volume(), "/", "-") }

// source is the snapshot of slackerd that has the image: the chain of its layers
// if our snapshotter has unpacked it, or else what importImage made.
func (b *Bed) source(i Image) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s, known := b.sources[i.Digest]; known {
		return s
	}
	return i.snapshot()
}

// importImage brings an image into slackerd, unless it is there.
func (b *Bed) importImage(ctx context.Context, i Image) error {
	for _, s := range []string{i.Chain, i.snapshot()} {
		if b.ctl(ctx, nil, "snapshot", "show", s) == nil {
			b.mu.Lock()
			b.sources[i.Digest] = s
			b.mu.Unlock()
			return nil
		}
	}
	tmp, err := os.MkdirTemp(b.Cache, "import")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := b.writeLayout(ctx, i, tmp); err != nil {
		return err
	}
	return b.ctl(ctx, nil, "image", "import", filepath.Join(tmp, "oci"), i.snapshot(), "--format", "oci", "--temp-dir", tmp, "--quiet")
}

// loopMount mounts a file as ext4 through a loop device.
func loopMount(ctx context.Context, file, dir string) (undo func() error, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	out, err := command(ctx, "", "losetup", "--find", "--show", "--direct-io=off", file)
	if err != nil {
		return nil, err
	}
	dev := strings.TrimSpace(out)
	detach := func() error {
		_, err := command(context.Background(), "", "losetup", "--detach", dev)
		return err
	}
	if err := unix.Mount(dev, dir, "ext4", 0, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s: %w", dev, err), detach())
	}
	return func() error {
		if err := unix.Unmount(dir, 0); err != nil {
			return errors.Join(fmt.Errorf("unmount %s: %w", dir, err), unix.Unmount(dir, unix.MNT_DETACH), detach())
		}
		return detach()
	}, nil
}

// rooted runs the task of an image in a root file system that make makes; undo,
// which it returns, is called at the end. What make did is undone when the task
// fails too.
func (b *Bed) rooted(ctx context.Context, i Image, makeRoot func() (root string, undo func() error, err error)) (*Started, error) {
	ns, err := b.slot(ctx)
	if err != nil {
		return nil, err
	}
	watch := startWatch()
	root, undo, err := makeRoot()
	if err != nil {
		b.give(ns)
		return nil, err
	}
	watch.lap("root")
	c, err := b.startChroot(i, root, ns)
	if err != nil {
		b.give(ns)
		return nil, errors.Join(err, undo())
	}
	end := func(context.Context) error {
		defer b.give(ns)
		return errors.Join(c.end(), undo())
	}
	if err := c.hello(ctx, i.Task); err != nil {
		return nil, errors.Join(err, end(ctx))
	}
	watch.lap("hello")
	return &Started{Phases: watch.phases, Pid: c.cmd.Process.Pid, End: end}, nil
}
