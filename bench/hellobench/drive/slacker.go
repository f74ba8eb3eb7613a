package drive

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// slackerDriver runs tasks on clones that are attached, without containers.
type slackerDriver struct{ bed *Bed }

// NewSlacker is the driver "slacker": clone, attach, mount, chroot.
func NewSlacker(b *Bed) Driver { return &slackerDriver{b} }

func (d *slackerDriver) Name() string { return "slacker" }

func (d *slackerDriver) Start(ctx context.Context) error {
	_, err := d.bed.Slackerd(ctx)
	return err
}

// Stop detaches what a run that failed has left.
func (d *slackerDriver) Stop() {
	if d.bed.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	out, err := command(ctx, d.bed.Link.Worker, d.args("list", "--json")...)
	var attached []struct{ Target string }
	if err != nil || json.Unmarshal([]byte(out), &attached) != nil {
		return // the bed says what is still mounted
	}
	for _, a := range attached {
		_ = d.client(ctx, "detach", "--force", a.Target) // likewise
		_ = d.bed.ctl(ctx, nil, "volume", "rm", a.Target, "--with-snapshots")
	}
}

// stopTimeout bounds what is done for a run that failed.
const stopTimeout = time.Minute

func (d *slackerDriver) Prepare(ctx context.Context, i Image) error { return d.bed.importImage(ctx, i) }

// Pull has nothing to do: the image is a snapshot of the server.
func (d *slackerDriver) Pull(context.Context, Image) error { return nil }

func (d *slackerDriver) Run(ctx context.Context, i Image, id string) (*Started, error) {
	volume, dir := "hello-run/"+id, filepath.Join(d.bed.dir, "mnt-"+id)
	return d.bed.rooted(ctx, i, func() (string, func() error, error) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", nil, err
		}
		if err := d.bed.ctlFrom(ctx, d.bed.Link.Worker, nil, "clone", d.bed.source(i), volume); err != nil {
			return "", nil, err
		}
		undo := func() error {
			ctx := context.Background()
			return errors.Join(d.client(ctx, "detach", volume), d.bed.ctl(ctx, nil, "volume", "rm", volume), os.RemoveAll(dir))
		}
		if err := d.client(ctx, "attach", volume, "--mount", dir); err != nil {
			return "", nil, errors.Join(err, d.bed.ctl(context.Background(), nil, "volume", "rm", volume))
		}
		return dir, undo, nil
	})
}

func (d *slackerDriver) client(ctx context.Context, args ...string) error {
	if _, err := d.bed.Slackerd(ctx); err != nil {
		return err
	}
	_, err := command(ctx, d.bed.Link.Worker, d.args(args...)...)
	return err
}

func (d *slackerDriver) args(args ...string) []string {
	return append([]string{filepath.Join(d.bed.Bin, "slacker-client"), "--server", d.bed.server.url, "--state-dir", filepath.Join(d.bed.dir, "state")}, args...)
}

// Push makes a snapshot of a clone that the task has run on.
func (d *slackerDriver) Push(ctx context.Context, i Image) (time.Duration, error) {
	id := "push-" + i.file()
	run, err := d.Run(ctx, i, id)
	if err != nil {
		return 0, err
	}
	started := time.Now()
	err = syncFS(filepath.Join(d.bed.dir, "mnt-"+id))
	if err == nil {
		err = d.bed.ctlFrom(ctx, d.bed.Link.Worker, nil, "snapshot", "create", "hello-run/"+id+"@pushed")
	}
	took := time.Since(started)
	return took, errors.Join(err, d.bed.ctl(ctx, nil, "snapshot", "rm", "hello-run/"+id+"@pushed"), run.End(ctx))
}

// syncFS writes out what a file system holds back.
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

// Forget has nothing to do: a worker keeps nothing of an image.
func (d *slackerDriver) Forget(context.Context, Image) error { return nil }
