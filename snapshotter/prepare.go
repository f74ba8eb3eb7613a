package snapshotter

import (
	"context"
	"crypto/rand"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"go.uber.org/zap"

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
	defer s.locks.lock(key)()
	ctx, cancel := s.bound(ctx)
	defer cancel()
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
	} else if place, err = s.ensureBase(ctx); err != nil {
		return nil, err
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
	if kind == snapshots.KindActive && labels[snapshots.LabelSnapshotRef] == "" && p != nil {
		s.spares.want(place, spareAfterUse)
	}
	return m, nil
}

// newVolume names a volume of this store. It is in flight.
func (s *Snapshotter) newVolume() string {
	volume := s.names.own + strings.ToLower(rand.Text()[:13])
	s.flight.add(volume)
	return volume
}

// working returns a working volume, in flight, that starts as place: a stepping
// stone, or a new clone.
func (s *Snapshotter) working(ctx context.Context, place string, kind snapshots.Kind) (string, error) {
	if kind == snapshots.KindActive {
		unlock := s.locks.lock("place " + place) // a spare that is being made is worth the wait
		volume := s.stones.take(place, s.flight.add)
		unlock()
		if volume != "" {
			return volume, nil
		}
	}
	volume := s.newVolume()
	if err := s.server.clone(ctx, place, volume); err != nil {
		s.flight.done(volume)
		if !block.Is(err, block.NotFound) { // it may have been made all the same
			s.waste(volume)
		}
		return "", err
	}
	return volume, nil
}

// waste makes a volume garbage at once.
func (s *Snapshotter) waste(volume string) {
	if err := s.store.addGarbage(volume); err != nil {
		s.log.Warn("cannot write down garbage; Cleanup finds it by its name", zap.String("volume", volume), zap.Error(err))
	}
	s.reaper.kick()
}

// adopt records a chain as a committed child of parent if the server has it,
// and returns Exists then; nil when it has not.
func (s *Snapshotter) adopt(ctx context.Context, chain, parent string, labels map[string]string) error {
	defer s.locks.lock(chain + "\x00" + parent)()
	exists := block.Errorf(block.Exists, "chain %s is there", chain)
	name, err := s.store.childWithRef(parent, chain)
	if err != nil || name != "" {
		if err == nil {
			err = exists
		}
		return err
	}
	place := s.names.chainPlace(chain)
	if place == "" {
		return nil
	}
	layerBytes, err := s.server.find(ctx, place)
	if block.Is(err, block.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	at := now()
	r := &record{Kind: snapshots.KindCommitted, Parent: parent, Labels: labels, Created: at, Updated: at, Place: place, UsageBytes: int64(layerBytes)} //nolint:gosec // at most 256 TiB
	if err := s.store.add("slacker/"+strings.ToLower(rand.Text()[:13])+"/"+chain, r); err != nil {
		return err
	}
	s.spares.want(place, spareAfterPull)
	return exists
}
