package drive

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
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
func (d *slackerDriver) Stop() { d.bed.detachAll(d.bed.stateDir(), true) }

func (b *Bed) stateDir() string { return filepath.Join(b.dir, "state") }

// stopTimeout bounds what is done for a run that failed.
const stopTimeout = time.Minute

// detachAll detaches what is attached by a state directory, while slackerd runs; the
// bed says what is still mounted after it. Volumes of tasks are deleted too.
func (b *Bed) detachAll(stateDir string, remove bool) {
	if b.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	client := b.clientArgs(stateDir)
	out, err := command(ctx, b.Link.Worker, append(client, "list", "--json")...)
	var attached []struct{ Target string }
	if err != nil || json.Unmarshal([]byte(out), &attached) != nil {
		return
	}
	for _, a := range attached {
		_, _ = command(ctx, b.Link.Worker, append(client, "detach", "--force", a.Target)...)
		if remove {
			_ = b.ctl(ctx, nil, "volume", "rm", a.Target, "--with-snapshots")
		}
	}
}

// clientArgs are slacker-client and its global flags.
func (b *Bed) clientArgs(stateDir string) []string {
	return slices.Clip([]string{filepath.Join(b.Bin, "slacker-client"), "--server", b.server.url, "--state-dir", stateDir})
}

func (d *slackerDriver) Prepare(ctx context.Context, i Image) error { return d.bed.importImage(ctx, i) }

// Pull has nothing to do: the image is a snapshot of the server.
func (d *slackerDriver) Pull(context.Context, Image) error { return nil }

func (d *slackerDriver) Run(ctx context.Context, i Image, id string) (*Started, error) {
	volume, dir := "hello-run/"+id, filepath.Join(d.bed.dir, "mnt-"+id)
	return d.bed.rooted(ctx, i, func() (string, func() error, error) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", nil, err
		}
		remove := func() error { return d.bed.ctl(context.Background(), nil, "volume", "rm", volume) }
		if err := d.client(ctx, "attach", volume, "--clone", d.bed.source(i), "--mount", dir); err != nil {
			return "", nil, errors.Join(err, os.RemoveAll(dir))
		}
		undo := func() error {
			return errors.Join(d.client(context.Background(), "detach", volume), remove(), os.RemoveAll(dir))
		}
		return dir, undo, nil
	})
}

func (d *slackerDriver) client(ctx context.Context, args ...string) error {
	if _, err := d.bed.Slackerd(ctx); err != nil {
		return err
	}
	_, err := command(ctx, d.bed.Link.Worker, append(d.bed.clientArgs(d.bed.stateDir()), args...)...)
	return err
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

// Forget makes it a worker that has nothing: no image runs.
func (d *slackerDriver) Forget(context.Context, Image) error {
	d.Stop()
	return os.RemoveAll(d.bed.stateDir())
}

// Unlearn and Learned make it a Learner.
func (d *slackerDriver) Unlearn() error { return d.bed.unlearn() }

// Learned tells whether a start has told the server what it has read.
func (d *slackerDriver) Learned() bool { return d.bed.learned() }
