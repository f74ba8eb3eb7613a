package snapshotter

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/worker"
)

const (
	// ext4Shutdown stops a file system at once; what it has not written is lost.
	ext4Shutdown        = 0x8004587d // EXT4_IOC_SHUTDOWN
	ext4ShutdownNoFlush = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH
	fiFreeze            = 0xc0045877 // FIFREEZE
	fiThaw              = 0xc0045878 // FITHAW
	// mkfsArgs leave nothing to do later: the volume reads as zeroes already. The
	// journal is small, as all of it is written in time by every container.
	mkfsProgram = "mkfs.ext4"
	mkfsArgs    = "-q -F -m 0 -e remount-ro -J size=32 -O metadata_csum_seed -E nodiscard,assume_storage_prezeroed=1"
	// readOnlyOptions: a snapshot was settled, so its journal is empty.
	readOnlyOptions = "ro,noload"
)

// devices makes working volumes into directories of this host. A volume is
// used by one request at a time.
type devices interface {
	// up attaches a volume, mounts its file system and returns the directory.
	// What is up already stays as it is.
	up(ctx context.Context, volume string, readOnly bool) (dir string, err error)
	// format makes an empty file system on a blank volume.
	format(ctx context.Context, volume string) error
	// settled calls fn while everything written to the volume is at the server
	// and nothing can be written (N5). idle says that it is unmounted since.
	settled(ctx context.Context, volume string, fn func() error) (idle bool, err error)
	// down unmounts and detaches a volume whose content nobody needs; one that
	// is in use is Busy.
	down(ctx context.Context, volume string) error
	// inodes counts those in use on a volume that is mounted.
	inodes(volume string) (used int64, mounted bool, err error)
	// takeFiles returns once what the server has told of files of a place that are
	// opened, when a volume was attached as a clone of it, if this process did that;
	// tellFiles tells it. Of a stepping stone nothing was told.
	takeFiles(volume, place string) []byte
	tellFiles(ctx context.Context, volume, place string, files []byte) error
	// thaw ends what a killed process has left frozen.
	thaw(volume string)
}

// workerDevices is devices with package worker.
type workerDevices struct {
	worker  *worker.Worker
	dir     string // directories are made below it
	driver  string
	options []string // of writable mounts

	mu       sync.Mutex
	pending  map[string]string           // volumes that the kernel is at work on since a request gave up, and with what
	attached map[string]*worker.Attached // volumes that this process has attached
}

func (d *workerDevices) mountDir(volume string) string {
	return filepath.Join(d.dir, path.Base(volume))
}

// bounded calls fn, which may hang in the kernel while the server is away, and
// waits for it no longer than ctx says. Then fn ends by itself later, and until
// then nothing else is done with the volume: what is mounted now may not be then.
func (d *workerDevices) bounded(ctx context.Context, volume, what string, fn func() error) error {
	done := make(chan error, 1)
	d.mu.Lock()
	d.pending[volume] = what
	d.mu.Unlock()
	go func() {
		err := fn()
		d.mu.Lock()
		delete(d.pending, volume)
		d.mu.Unlock()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return block.Errorf(block.Unavailable, "%s %s: no answer in time, the server may be away: %w", what, volume, context.Cause(ctx))
	}
}

// ready refuses a volume that the kernel is at work on.
func (d *workerDevices) ready(volume string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if what := d.pending[volume]; what != "" {
		return block.Errorf(block.Unavailable, "%s: the kernel still waits to %s it, the server may be away", volume, what)
	}
	return nil
}

func (d *workerDevices) up(ctx context.Context, volume string, readOnly bool) (string, error) {
	dir := d.mountDir(volume)
	if err := d.ready(volume); err != nil {
		return "", err
	}
	at, err := mountsAt(dir)
	if err != nil || len(at) > 0 {
		return dir, err
	}
	attached, err := d.worker.Attach(ctx, volume, worker.AttachOptions{Driver: d.driver, ReadOnly: readOnly})
	if err != nil {
		return "", err
	}
	d.mu.Lock()
	d.attached[volume] = attached
	d.mu.Unlock()
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", block.Errorf(block.KindOfFile(err), "make a mount directory: %w", err)
	}
	m := mount.Mount{Type: "ext4", Source: attached.Device, Options: d.options}
	if readOnly {
		m.Options = strings.Split(readOnlyOptions, ",")
	}
	err = d.bounded(ctx, volume, "mount", func() error {
		if err := m.Mount(dir); err != nil {
			return block.Errorf(block.IO, "mount %s at %s: %w", attached.Device, dir, err)
		}
		return nil
	})
	return dir, err
}

func (d *workerDevices) format(ctx context.Context, volume string) error {
	attached, err := d.worker.Attach(ctx, volume, worker.AttachOptions{Driver: d.driver})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, mkfsProgram, append(strings.Fields(mkfsArgs), attached.Device)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return block.Errorf(block.IO, "%s on %s: %w: %.400s", mkfsProgram, attached.Device, err, out)
	}
	dir, err := d.up(ctx, volume, false)
	if err != nil {
		return err
	}
	// A layer has no such directory; e2fsck makes one when it needs it.
	if err := os.Remove(filepath.Join(dir, "lost+found")); err != nil {
		return block.Errorf(block.KindOfFile(err), "empty the file system: %w", err)
	}
	return nil
}

func (d *workerDevices) settled(ctx context.Context, volume string, fn func() error) (idle bool, err error) {
	dir, err := d.up(ctx, volume, false)
	if err != nil {
		return false, err
	}
	at, err := mountsAt(dir)
	if err != nil || len(at) == 0 {
		return false, block.Errorf(block.IO, "%s is not mounted any more: %w", volume, err)
	}
	device := at[0]
	if others, err := mountsOfDevice(device.dev); err != nil || len(others) > 1 {
		return false, d.frozen(ctx, volume, fn, err)
	}
	err = d.bounded(ctx, volume, "unmount", func() error { return unmount(dir) })
	if block.Is(err, block.Busy) {
		return false, d.frozen(ctx, volume, fn, nil)
	}
	if err != nil {
		return false, err
	}
	used, err := inUse(device.source)
	if err != nil {
		return false, err
	}
	if used { // mounted in another mount namespace
		if _, err := d.up(ctx, volume, false); err != nil {
			return false, err
		}
		return false, d.frozen(ctx, volume, fn, nil)
	}
	// Whoever uses mounts it was given before is refused; beneath the mount it
	// would write to this host.
	if err := removeMountDir(dir); err != nil {
		return true, err
	}
	if err := d.bounded(ctx, volume, "sync", func() error { return syncDevice(device.source) }); err != nil {
		return true, err
	}
	return true, fn()
}

// inUse reports whether a device is mounted anywhere, in whatever namespace:
// then it cannot be opened exclusively.
func inUse(device string) (bool, error) {
	// A child that is forked in between would hold the device until it execs.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return true, nil
	}
	if err != nil {
		return false, block.Errorf(block.KindOfFile(err), "open a device: %w", err)
	}
	_ = f.Close() // read only
	return false, nil
}

// syncDevice writes what the kernel caches of a device, down to the server.
func syncDevice(device string) error {
	f, err := os.Open(device)
	if err != nil {
		return block.Errorf(block.KindOfFile(err), "sync a device: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	if err := f.Sync(); err != nil {
		return block.Errorf(block.IO, "sync %s: %w", device, err)
	}
	return nil
}

// frozen calls fn while the file system of a volume in use is frozen.
func (d *workerDevices) frozen(ctx context.Context, volume string, fn func() error, err error) error {
	if err != nil {
		return err
	}
	f, err := os.Open(d.mountDir(volume))
	if err != nil {
		return block.Errorf(block.KindOfFile(err), "freeze %s: %w", volume, err)
	}
	frozen, abandoned, ended := make(chan error), make(chan struct{}), make(chan struct{})
	d.mu.Lock()
	d.pending[volume] = "freeze"
	d.mu.Unlock()
	go func() {
		defer close(ended)
		err := unix.IoctlSetInt(int(f.Fd()), fiFreeze, 0)
		select {
		case frozen <- err:
			<-abandoned
		case <-abandoned:
		}
		if err == nil {
			_ = unix.IoctlSetInt(int(f.Fd()), fiThaw, 0) // fails only when it is thawed
		}
		_ = f.Close() // a directory
		d.mu.Lock()
		delete(d.pending, volume)
		d.mu.Unlock()
	}()
	select {
	case err = <-frozen:
		if err != nil {
			err = block.Errorf(block.IO, "freeze %s: %w", volume, err)
		} else {
			err = fn()
		}
		close(abandoned)
		select {
		case <-ended:
		case <-ctx.Done():
		}
		return err
	case <-ctx.Done():
		close(abandoned)
		return block.Errorf(block.Unavailable, "freeze %s: no answer in time, the server may be away: %w", volume, context.Cause(ctx))
	}
}

func (d *workerDevices) inodes(volume string) (int64, bool, error) {
	dir := d.mountDir(volume)
	at, err := mountsAt(dir)
	if err != nil || len(at) == 0 {
		return 0, false, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, true, block.Errorf(block.IO, "count the inodes of %s: %w", dir, err)
	}
	return int64(st.Files - st.Ffree), true, nil //nolint:gosec // ext4 has at most 2^32
}

func (d *workerDevices) takeFiles(volume, place string) (files []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a := d.attached[volume]; a != nil && a.Base == place {
		files, a.Files = a.Files, nil
	}
	return files
}

func (d *workerDevices) tellFiles(ctx context.Context, volume, place string, files []byte) error {
	d.mu.Lock()
	a := d.attached[volume]
	d.mu.Unlock()
	if a == nil || a.Base != place {
		return block.Errorf(block.NotFound, "%s was not attached by this process as a clone of %s", volume, place)
	}
	return d.worker.TellFiles(ctx, a, files)
}

func (d *workerDevices) thaw(volume string) {
	f, err := os.Open(d.mountDir(volume))
	if err != nil {
		return
	}
	_ = unix.IoctlSetInt(int(f.Fd()), fiThaw, 0) // one that is not frozen refuses
	_ = f.Close()
}

func (d *workerDevices) down(ctx context.Context, volume string) error {
	dir := d.mountDir(volume)
	if err := d.ready(volume); err != nil {
		return err
	}
	at, err := mountsAt(dir)
	if err != nil {
		return err
	}
	if len(at) > 0 {
		others, err := mountsOfDevice(at[0].dev)
		if err != nil {
			return err
		}
		if len(others) > 1 {
			return block.Errorf(block.Busy, "%s is still mounted at %s", volume, others[0].dir)
		}
		if err := d.bounded(ctx, volume, "unmount", func() error { return discard(dir) }); err != nil {
			return err
		}
	}
	if _, err := d.worker.Detach(ctx, volume, false); err != nil && !block.Is(err, block.NotFound) {
		return err
	}
	d.mu.Lock()
	delete(d.attached, volume)
	d.mu.Unlock()
	return removeMountDir(dir)
}

func removeMountDir(dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return block.Errorf(block.KindOfFile(err), "remove a mount directory: %w", err)
	}
	return nil
}

// discard unmounts a file system without writing what it caches.
func discard(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return block.Errorf(block.KindOfFile(err), "unmount: %w", err)
	}
	err = unix.IoctlSetPointerInt(int(f.Fd()), ext4Shutdown, ext4ShutdownNoFlush)
	_ = f.Close()
	if err != nil && !errors.Is(err, unix.EROFS) {
		return block.Errorf(block.IO, "shut down the file system at %s: %w", dir, err)
	}
	return unmount(dir)
}

func unmount(dir string) error {
	err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	switch {
	case err == nil, errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT): // not mounted
		return nil
	case errors.Is(err, unix.EBUSY):
		return block.Errorf(block.Busy, "unmount %s: in use", dir)
	}
	return block.Errorf(block.IO, "unmount %s: %w", dir, err)
}
