package snapshotter

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/filters"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/naming"
	"github.com/slackerd/slacker/worker"
)

// Snapshotter is containerd's interface over a slackerd server. Its methods may
// be called at once, also for the same key: then one goes first.
type Snapshotter struct {
	*volumes
	base    base
	spares  spares
	reaper  reaper
	closing sync.Once
}

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
)

// New opens the store at the root and starts to clear what a former process
// left. It asks nothing of the server.
func New(o Options) (*Snapshotter, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(o.Root, "mnt"), 0o711); err != nil {
		return nil, block.Errorf(block.KindOfFile(err), "make the root: %w", err)
	}
	root, err := filepath.EvalSymlinks(o.Root)
	if err != nil || !plainPath.MatchString(root) {
		return nil, block.Errorf(block.Invalid, "root %s leads to %q, want a plain path: %w", o.Root, root, err)
	}
	d := &workerDevices{worker: o.Worker, dir: filepath.Join(root, "mnt"), driver: o.Driver, options: o.MountOptions, pending: map[string]string{}, attached: map[string]*worker.Attached{}}
	return openWith(o, d)
}

// openWith is New with its devices given.
func openWith(o Options, d devices) (*Snapshotter, error) {
	st, err := openStore(filepath.Join(o.Root, "snapshots.db"), o.Prefix.Store(workerName(o), strings.ToLower(rand.Text()[:10])))
	if err != nil {
		return nil, err
	}
	v := &volumes{o: o, log: o.Log, store: st, server: server{o.API}, devices: d, names: names{o.Prefix, o.SizeBytes, st.own}, wake: make(chan struct{}, 1)}
	for _, r := range st.all() {
		if r.Volume != "" {
			d.thaw(r.Volume)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Snapshotter{volumes: v, base: base{volumes: v}, spares: spares{volumes: v, habits: &habits{}, wanted: make(chan want, 1), learned: make(chan string, 1), ended: make(chan struct{})}, reaper: reaper{volumes: v, cancel: cancel, ended: make(chan struct{})}}
	s.reaper.part = func(ctx context.Context, volume string) error { return s.spares.look(ctx, volume, true) }
	go s.reaper.reap(ctx)
	go s.spares.stock(ctx)
	return s, nil
}

// Close ends the process's part; mounts stay. It may be called again.
func (s *Snapshotter) Close() error {
	var err error
	s.closing.Do(func() {
		s.reaper.cancel() // of the spares too
		<-s.reaper.ended
		<-s.spares.ended
		err = s.store.close()
	})
	return err
}

// Stat describes a snapshot.
func (s *Snapshotter) Stat(_ context.Context, key string) (snapshots.Info, error) {
	r, err := s.store.get(key)
	if err != nil {
		return snapshots.Info{}, toContainerd(err)
	}
	return r.info(key), nil
}

// Update changes labels.
func (s *Snapshotter) Update(_ context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	out, err := s.store.update(info, fieldpaths)
	return out, toContainerd(err)
}

// Walk calls fn for each snapshot that one of the filters matches.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, fs ...string) error {
	filter, err := filters.ParseAll(fs...)
	if err != nil {
		return err
	}
	for name, r := range s.store.all() {
		info := r.info(name)
		if !filter.Match(fields(info)) {
			continue
		}
		info.Labels = maps.Clone(info.Labels)
		if err := fn(ctx, info); err != nil {
			return err
		}
	}
	return nil
}

// Mounts returns the mounts of an active snapshot or view, and makes its volume
// a mounted device again if a reboot has taken that.
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	unlock, err := s.locks.lock(ctx, key)
	if err != nil {
		return nil, toContainerd(err)
	}
	defer unlock()
	r, err := s.store.get(key)
	if err != nil {
		return nil, toContainerd(err)
	}
	if r.Kind == snapshots.KindCommitted {
		return nil, toContainerd(block.Errorf(block.Busy, "snapshot %s is committed: want an active one or a view", key))
	}
	m, err := s.mounts(ctx, r.Volume, r.Kind == snapshots.KindView)
	return m, toContainerd(err)
}

// mounts brings a volume up and says how to mount it.
func (s *Snapshotter) mounts(ctx context.Context, volume string, readOnly bool) ([]mount.Mount, error) {
	dir, err := s.devices.up(ctx, volume, readOnly)
	if err != nil {
		return nil, err
	}
	mode := "rw"
	if readOnly {
		mode = "ro"
	}
	return []mount.Mount{{Type: "bind", Source: dir, Options: []string{"rbind", mode}}}, nil
}

// Remove removes a snapshot; its volumes go in the background.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	unlock, err := s.locks.lock(ctx, key)
	if err != nil {
		return toContainerd(err)
	}
	defer unlock()
	err = s.store.remove(key, func(r *record) []string {
		if r.Kind != snapshots.KindCommitted {
			return []string{r.Volume}
		}
		var own []string
		if v := naming.VolumeOf(r.Place); strings.HasPrefix(v, s.names.own) {
			own = append(own, v)
		}
		if r.Pin != "" {
			own = append(own, r.Pin)
		}
		return own
	})
	s.kick()
	return toContainerd(err)
}

// Cleanup clears all garbage, and what a kill has left without a trace in the
// store. Stones wait on, and so does what does not go in time.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	err := s.reaper.search(ctx)
	return toContainerd(errors.Join(err, s.reaper.clear(ctx, now())))
}

func now() time.Time { return time.Now().UTC() }
