package snapshotter

import (
	"context"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/naming"
)

// Commit makes what an active snapshot holds a committed one, and the active
// one goes. Layers that were unpacked become chains for all workers.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return toContainerd(s.commit(ctx, name, key, opts))
}

func (s *Snapshotter) commit(ctx context.Context, name, key string, opts []snapshots.Opt) error {
	labels, err := labelsOf(opts)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	unlock, err := s.locks.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	active, err := s.store.get(key)
	if err != nil {
		return err
	}
	if active.Kind != snapshots.KindActive {
		return block.Errorf(block.Busy, "snapshot %s is no active one", key)
	}
	if _, err := s.store.free(name, active.Parent); err != nil {
		return err
	}
	// A server that is away is better known before anything is unmounted.
	if _, err := s.server.headBytes(ctx, active.Volume); err != nil {
		return err
	}
	own := s.fresh()
	defer s.flight.done(own)
	s.flight.add(active.Volume) // it is garbage before it is a stepping stone
	defer s.flight.done(active.Volume)
	at := now()
	r := &record{Kind: snapshots.KindCommitted, Parent: active.Parent, Labels: labels, Created: at, Updated: at}
	free, err := s.locks.lock(ctx, volumeLock(active.Volume)) // nobody has files of it open
	if err != nil {
		return err
	}
	defer free()
	idle, err := s.devices.settled(ctx, active.Volume, func() (err error) {
		r.Place, r.Pin, r.UsageBytes, err = s.publish(ctx, active.Volume, s.chainOf(name, key, active.Labels, labels), own)
		return err
	})
	if err == nil { // the place exists (N2)
		err = s.store.commit(key, name, r)
	}
	if err != nil {
		s.waste(own) // it may have been made, whatever the answer was
		return err
	}
	if idle {
		s.stones.put(stone{volume: active.Volume, place: r.Place}, s.o.Idle)
	}
	s.kick()
	return nil
}

// chainOf returns the place of the chain that a commit is of, or "". An unpacker
// says so by the label of the chain, the same at Prepare and Commit; older ones
// by a key of the form that only unpackers use, which ends in the same id as the
// name. Both have compared the layer's digest with the image's.
func (s *Snapshotter) chainOf(name, key string, prepared, committed map[string]string) string {
	if !s.o.Publish {
		return ""
	}
	if ref := committed[snapshots.LabelSnapshotRef]; ref != "" && ref == prepared[snapshots.LabelSnapshotRef] {
		return s.names.prefix.Place(ref)
	}
	id := name[strings.LastIndex(name, "/")+1:]
	last := key[strings.LastIndex(key, "/")+1:]
	if strings.HasPrefix(last, snapshots.UnpackKeyPrefix+"-") && strings.HasSuffix(last, " "+id) {
		return s.names.prefix.Place(id)
	}
	return ""
}

// publish makes the volume's state a snapshot: the chain, if it is one and this
// worker may, with own as the pin, else a private one of own.
func (s *Snapshotter) publish(ctx context.Context, volume, chain, own string) (place, pin string, usageBytes int64, err error) {
	if chain != "" {
		n, err := s.publishChain(ctx, volume, chain, own)
		if !block.Is(err, block.Permission) {
			return chain, own, int64(n), err //nolint:gosec // at most 256 TiB
		}
		s.log.Warn("this worker may not publish chains; the layer stays its own", zap.Error(err))
	}
	n, err := s.server.publish(ctx, volume, naming.PlaceOf(own))
	return naming.PlaceOf(own), "", int64(n), err //nolint:gosec // at most 256 TiB
}

// publishChain makes the volume's state the chain, or takes that which another
// worker has made meanwhile (N1), and pins it (N9).
func (s *Snapshotter) publishChain(ctx context.Context, volume, chain, pin string) (layerBytes uint64, err error) {
	for range 3 { // as often as it is pruned in between
		layerBytes, err = s.server.publish(ctx, volume, chain)
		if block.Is(err, block.Exists) {
			layerBytes, err = s.server.find(ctx, chain)
		}
		if err == nil {
			err = s.server.clone(ctx, chain, pin)
		}
		if !block.Is(err, block.NotFound) {
			break
		}
	}
	return layerBytes, err
}
