package drive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/slackerd/slacker/bench/hellobench/link"
	"github.com/slackerd/slacker/stack"
)

// qcow2Driver runs tasks on qcow2 files of the worker that are backed by an image
// which qemu-nbd serves. The worker's qemu-storage-daemon shows the file by FUSE,
// and a loop device makes it a disk: what slacker's own driver does too where the
// kernel has no nbd.
type qcow2Driver struct {
	bed *Bed

	mu      sync.Mutex
	servers map[string]*nbdServer // by image
	recent  []string              // the same images, the one used last at the end
	most    int                   // how many
	port    int
}

// mostBases is how many images are kept as qcow2 at a time. Files of all would take
// as much room as the whole set, and one is made in seconds.
const mostBases = 6

// nbdServer is qemu-nbd at the server's end, for one image.
type nbdServer struct {
	process *stack.Process
	port    int
	file    string
}

// NewQcow2 is the driver "qcow2".
func NewQcow2(b *Bed) Driver {
	return &qcow2Driver{bed: b, servers: map[string]*nbdServer{}, most: mostBases, port: 20000}
}

func (d *qcow2Driver) Name() string { return "qcow2" }

func (d *qcow2Driver) Start(ctx context.Context) error {
	if err := os.RemoveAll(d.bases()); err != nil { // of a run that was killed
		return err
	}
	_, err := d.bed.Slackerd(ctx)
	return err
}

func (d *qcow2Driver) Stop() {
	for _, s := range d.servers {
		s.process.Stop()
	}
	d.servers, d.recent = map[string]*nbdServer{}, nil
	_ = os.RemoveAll(d.bases()) // the next Start removes it else
}

// base is the image as qcow2, at the server.
func (d *qcow2Driver) base(i Image) string { return filepath.Join(d.bases(), i.file()+".qcow2") }

func (d *qcow2Driver) bases() string { return filepath.Join(d.bed.Cache, "qcow2") }

// Prepare has slackerd have the image: Keep makes a file of it.
func (d *qcow2Driver) Prepare(ctx context.Context, i Image) error { return d.bed.importImage(ctx, i) }

// Keep converts the image and serves it, and lets go of the one that was not used
// for longest. No task of that may be running.
func (d *qcow2Driver) Keep(ctx context.Context, i Image) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.servers[i.Name] != nil {
		d.recent = append(slices.DeleteFunc(d.recent, func(name string) bool { return name == i.Name }), i.Name)
		return nil
	}
	for len(d.recent) >= d.most {
		oldest := d.servers[d.recent[0]]
		oldest.process.Stop()
		delete(d.servers, d.recent[0])
		d.recent = d.recent[1:]
		if err := os.Remove(oldest.file); err != nil {
			return err
		}
	}
	if err := d.convert(ctx, i); err != nil {
		return err
	}
	s, err := d.serve(ctx, i)
	if err != nil {
		return err
	}
	d.servers[i.Name], d.recent = s, append(d.recent, i.Name)
	return nil
}

// serve starts qemu-nbd for an image.
func (d *qcow2Driver) serve(ctx context.Context, i Image) (*nbdServer, error) {
	d.port++
	s := &nbdServer{port: d.port, file: d.base(i)}
	address := fmt.Sprintf("%s:%d", link.ServerAddress, s.port)
	var err error
	s.process, err = stack.StartProcess(ctx, stack.Command{
		Name: "qemu-nbd", Netns: d.bed.Link.Server, Log: filepath.Join(d.bed.dir, "qemu-nbd-"+i.file()+".log"),
		Args: []string{"qemu-nbd", "--read-only", "--persistent", "--shared=32", "--bind=" + link.ServerAddress,
			fmt.Sprintf("--port=%d", s.port), "--format=qcow2", s.file},
		Ready: func(ctx context.Context) error {
			c, err := d.bed.Link.Server.DialContext(ctx, "tcp", address)
			if err != nil {
				return err
			}
			return c.Close()
		},
	})
	return s, err
}

func (d *qcow2Driver) convert(ctx context.Context, i Image) error {
	if _, err := os.Stat(d.base(i)); err == nil {
		return nil
	}
	if err := d.bed.importImage(ctx, i); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(d.base(i)), 0o755); err != nil {
		return err
	}
	from := "nbd://" + d.bed.server.nbd + "/" + d.bed.source(i)
	if _, err := command(ctx, d.bed.Link.Server, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", from, d.base(i)+".new"); err != nil {
		return errors.Join(err, os.RemoveAll(d.base(i)+".new"))
	}
	return os.Rename(d.base(i)+".new", d.base(i))
}

// Pull has nothing to do.
func (d *qcow2Driver) Pull(context.Context, Image) error { return nil }

func (d *qcow2Driver) Run(ctx context.Context, i Image, id string) (*Started, error) {
	d.mu.Lock()
	s := d.servers[i.Name]
	d.mu.Unlock()
	if s == nil {
		return nil, fmt.Errorf("run %s: not kept", i.Name)
	}
	return d.bed.rooted(ctx, i, func() (string, func() error, error) { return d.root(ctx, s, id) })
}

// root makes the worker's file, its daemon, and mounts it.
func (d *qcow2Driver) root(ctx context.Context, s *nbdServer, id string) (string, func() error, error) {
	dir := filepath.Join(d.bed.dir, "qcow2-"+id)
	disk, overlay, mount := filepath.Join(dir, "disk"), filepath.Join(dir, "overlay.qcow2"), filepath.Join(dir, "mnt")
	if err := os.MkdirAll(mount, 0o755); err != nil {
		return "", nil, err
	}
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		return "", nil, err
	}
	remove := func() error { return os.RemoveAll(dir) }
	url := fmt.Sprintf("nbd://%s:%d", link.ServerAddress, s.port)
	if _, err := command(ctx, d.bed.Link.Worker, "qemu-img", "create", "-q", "-f", "qcow2", "-b", url, "-F", "raw", overlay); err != nil {
		return "", nil, errors.Join(err, remove())
	}
	daemon, err := stack.StartProcess(ctx, stack.Command{
		Name: "qemu-storage-daemon", Netns: d.bed.Link.Worker, Log: filepath.Join(d.bed.dir, "qsd-"+id+".log"),
		Args: []string{"qemu-storage-daemon",
			"--blockdev", fmt.Sprintf("driver=nbd,node-name=base,read-only=on,server.type=inet,server.host=%s,server.port=%d", link.ServerAddress, s.port),
			"--blockdev", "driver=file,node-name=file,filename=" + overlay,
			"--blockdev", "driver=qcow2,node-name=overlay,file=file,backing=base",
			"--export", "type=fuse,id=disk,node-name=overlay,writable=on,mountpoint=" + disk,
		},
		Ready: func(context.Context) error {
			if info, err := os.Stat(disk); err != nil {
				return err
			} else if info.Size() == 0 {
				return errors.New("the disk is not shown yet")
			}
			return nil
		},
	})
	if err != nil {
		return "", nil, errors.Join(err, remove())
	}
	unmount, err := loopMount(ctx, disk, mount)
	if err != nil {
		daemon.Stop()
		return "", nil, errors.Join(err, remove())
	}
	return mount, func() error {
		err := unmount()
		daemon.Stop()
		return errors.Join(err, remove())
	}, nil
}

// Forget has nothing to do: a worker keeps nothing of an image.
func (d *qcow2Driver) Forget(context.Context, Image) error { return nil }

// copyDriver copies the whole disk to the worker.
type copyDriver struct{ bed *Bed }

// NewCopy is the driver "copy": the disk, or what of it is allocated, is fetched
// when the image is pulled. The first task runs on it, others on copies of it.
func NewCopy(b *Bed) Driver { return &copyDriver{b} }

func (d *copyDriver) Name() string { return "copy" }

func (d *copyDriver) Start(ctx context.Context) error {
	_, err := d.bed.Slackerd(ctx)
	return err
}

func (d *copyDriver) Stop() {}

func (d *copyDriver) Prepare(ctx context.Context, i Image) error { return d.bed.importImage(ctx, i) }

func (d *copyDriver) pulled(i Image) string { return filepath.Join(d.bed.dir, "copy-"+i.file()) }

func (d *copyDriver) Pull(ctx context.Context, i Image) error {
	_, err := command(ctx, d.bed.Link.Worker, "nbdcopy", "nbd://"+d.bed.server.nbd+"/"+d.bed.source(i), d.pulled(i))
	return err
}

func (d *copyDriver) Run(ctx context.Context, i Image, id string) (*Started, error) {
	own, mount := d.pulled(i)+"."+id, filepath.Join(d.bed.dir, "mnt-"+id)
	return d.bed.rooted(ctx, i, func() (string, func() error, error) {
		if _, err := command(ctx, "", "cp", "--sparse=always", d.pulled(i), own); err != nil {
			return "", nil, err
		}
		undo, err := loopMount(ctx, own, mount)
		if err != nil {
			return "", nil, errors.Join(err, os.Remove(own))
		}
		return mount, func() error { return errors.Join(undo(), os.Remove(own), os.Remove(mount)) }, nil
	})
}

func (d *copyDriver) Forget(_ context.Context, i Image) error {
	if err := os.Remove(d.pulled(i)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

var _ Pusher = (*slackerDriver)(nil)
