package snapshotter

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/filters"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
)

// Snapshotter is containerd's interface over a slackerd server. Its methods may
// be called at once, also for the same key: then one goes first.
type Snapshotter struct {
	o       Options
	log     *zap.Logger
	store   *store
	server  server
	devices devices
	names   names
	locks   locks
	flight  flight
	stones  stones
	spares  spares
	reaper  reaper
	base    sync.Mutex // one request makes the base
	based   bool
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
	d := &workerDevices{worker: o.Worker, dir: filepath.Join(root, "mnt"), driver: o.Driver, options: o.MountOptions, pending: map[string]string{}}
	return open(o, d)
}

// open is New with its devices given.
func open(o Options, d devices) (*Snapshotter, error) {
	st, err := openStore(filepath.Join(o.Root, "snapshots.db"), ownPrefix(o))
	if err != nil {
		return nil, err
	}
	s := &Snapshotter{o: o, log: o.Log, store: st, server: server{o.API}, devices: d, names: names{o.Prefix, o.SizeBytes, st.own}}
	records, err := st.all()
	if err != nil {
		_ = st.close()
		return nil, err
	}
	for _, r := range records {
		if r.Volume != "" {
			d.thaw(r.Volume)
		}
	}
	s.startReaper()
	return s, nil
}

// Close ends the process's part; mounts stay. It may be called again.
func (s *Snapshotter) Close() error {
	var err error
	s.closing.Do(func() {
		s.stopReaper()
		err = s.store.close()
	})
	return err
}

// bound gives a request its deadline (N6).
func (s *Snapshotter) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.o.Timeout, block.Errorf(block.Unavailable, "nothing within %v", s.o.Timeout))
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
	records, err := s.store.all()
	if err != nil {
		return toContainerd(err)
	}
	for name, r := range records {
		info := r.info(name)
		if !filter.Match(fields(info)) {
			continue
		}
		if err := fn(ctx, info); err != nil {
			return err
		}
	}
	return nil
}

// fields makes a snapshot's fields known to filters.
func fields(i snapshots.Info) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		if len(path) == 0 {
			return "", false
		}
		switch path[0] {
		case "kind":
			switch i.Kind {
			case snapshots.KindActive:
				return "active", true
			case snapshots.KindView:
				return "view", true
			case snapshots.KindCommitted:
				return "committed", true
			}
		case "name":
			return i.Name, true
		case "parent":
			return i.Parent, true
		case "labels":
			if len(path) > 1 {
				v, ok := i.Labels[path[1]]
				return v, ok
			}
		}
		return "", false
	})
}

// Usage returns what a snapshot takes beyond its parent (N8).
func (s *Snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	r, err := s.store.get(key)
	if err != nil {
		return snapshots.Usage{}, toContainerd(err)
	}
	if r.Kind == snapshots.KindCommitted {
		return snapshots.Usage{Size: r.UsageBytes}, nil
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	n, err := s.server.headBytes(ctx, r.Volume)
	return snapshots.Usage{Size: int64(n)}, toContainerd(err) //nolint:gosec // at most 256 TiB
}

// Mounts returns the mounts of an active snapshot or view, and makes its volume
// a mounted device again if a reboot has taken that.
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	defer s.locks.lock(key)()
	ctx, cancel := s.bound(ctx)
	defer cancel()
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

func now() time.Time { return time.Now().UTC() }
