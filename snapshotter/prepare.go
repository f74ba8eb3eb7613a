package snapshotter

import (
	"context"
	"crypto/rand"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sync/errgroup"

	"github.com/slackerd/slacker/block"
)

// Prepare makes an active snapshot. With the label of a chain that the server
// has already it records that as committed instead, and says AlreadyExists.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	m, err := s.make(ctx, snapshots.KindActive, key, parent, opts)
	return m, toContainerd(err)
}

// View makes a read-only snapshot.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	m, err := s.make(ctx, snapshots.KindView, key, parent, opts)
	return m, toContainerd(err)
}

// labelsOf returns the labels that opts set.
func labelsOf(opts []snapshots.Opt) (map[string]string, error) {
	var info snapshots.Info
	for _, opt := range opts {
		if err := opt(&info); err != nil {
			return nil, block.Errorf(block.Invalid, "options: %w", err)
		}
	}
	return info.Labels, nil
}

func (s *Snapshotter) make(ctx context.Context, kind snapshots.Kind, key, parent string, opts []snapshots.Opt) ([]mount.Mount, error) {
	labels, err := labelsOf(opts)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	unlock, err := s.locks.lock(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	p, err := s.store.free(key, parent)
	if err != nil {
		return nil, err
	}
	if chain := labels[snapshots.LabelSnapshotRef]; chain != "" && kind == snapshots.KindActive {
		if err := s.adopt(ctx, chain, parent, labels); err != nil {
			return nil, err
		}
	}
	place := ""
	if p != nil {
		place = p.Place
	} else if place, err = s.base.ensure(ctx); err != nil {
		return nil, err
	}
	container := kind == snapshots.KindActive && labels[snapshots.LabelSnapshotRef] == "" && p != nil
	if container { // it does not compete with a spare
		s.spares.want(want{place: place, after: spareAfterUse})
	}
	volume, err := s.working(ctx, place, kind)
	if err != nil {
		return nil, err
	}
	m, err := s.mounts(ctx, volume, kind == snapshots.KindView)
	if err == nil {
		at := now()
		err = s.store.add(key, &record{Kind: kind, Parent: parent, Labels: labels, Created: at, Updated: at, Volume: volume})
	}
	s.flight.done(volume)
	if err != nil {
		s.waste(volume)
		return nil, err
	}
	if container {
		s.spares.used(place, volume, m[0].Source)
	}
	return m, nil
}

// adopt records a chain as a committed child of parent if the server has it,
// and returns Exists then; nil when it has not.
func (s *Snapshotter) adopt(ctx context.Context, chain, parent string, labels map[string]string) error {
	unlock, err := s.locks.lock(ctx, chain+" on "+parent)
	if err != nil {
		return err
	}
	defer unlock()
	exists := block.Errorf(block.Exists, "chain %s is there", chain)
	name, err := s.store.childWithRef(parent, chain)
	if err != nil || name != "" {
		if err == nil {
			err = exists
		}
		return err
	}
	place := s.names.prefix.Place(chain)
	if place == "" {
		return nil
	}
	layerBytes, pin, err := s.findAndPin(ctx, place)
	if block.Is(err, block.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	at := now()
	r := &record{Kind: snapshots.KindCommitted, Parent: parent, Labels: labels, Created: at, Updated: at, Place: place, Pin: pin, UsageBytes: int64(layerBytes)} //nolint:gosec // at most 256 TiB
	err = s.store.add("slacker/"+strings.ToLower(rand.Text()[:13])+"/"+chain, r)
	s.flight.done(pin)
	if err != nil {
		s.waste(pin)
		return err
	}
	s.spares.want(want{place: place, after: spareAfterPull})
	return exists
}

// findAndPin describes the snapshot of a place and pins it (N9), in one round trip to
// the server. The pin is in flight.
func (s *Snapshotter) findAndPin(ctx context.Context, place string) (layerBytes uint64, pin string, err error) {
	var g errgroup.Group
	g.Go(func() (err error) {
		layerBytes, err = s.server.find(ctx, place)
		return err
	})
	pin, err = s.clone(ctx, place)
	if ferr := g.Wait(); ferr != nil && err == nil { // it was pruned just now, or made
		s.flight.done(pin)
		s.waste(pin)
		err = ferr
	}
	return layerBytes, pin, err
}
