package snapshotter

import (
	"context"
	"crypto/rand"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
)

// volumes are the volumes of this store, at the server and on this host, and
// what all that work with them share.
type volumes struct {
	o       Options
	log     *zap.Logger
	store   *store
	server  server
	devices devices
	names   names
	locks   locks
	flight  flight
	stones  stones
	wake    chan struct{} // there is garbage
}

// bound gives a request its deadline (N6).
func (v *volumes) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, v.o.Timeout, block.Errorf(block.Unavailable, "nothing within %v", v.o.Timeout))
}

// fresh names a volume of this store. It is in flight.
func (v *volumes) fresh() string {
	volume := v.names.own + strings.ToLower(rand.Text()[:13])
	v.flight.add(volume)
	return volume
}

// working returns a working volume, in flight, that starts as place: a stepping
// stone, or a new clone.
func (v *volumes) working(ctx context.Context, place string, kind snapshots.Kind) (string, error) {
	if kind == snapshots.KindActive {
		unlock, err := v.locks.lock(ctx, "place "+place) // a spare that is being made is worth the wait
		if err != nil {
			return "", err
		}
		volume := v.stones.take(place, v.flight.add)
		unlock()
		if volume != "" {
			return volume, nil
		}
	}
	return v.clone(ctx, place)
}

// clone returns a new clone of place, in flight.
func (v *volumes) clone(ctx context.Context, place string) (string, error) {
	volume := v.fresh()
	if err := v.server.clone(ctx, place, volume); err != nil {
		v.flight.done(volume)
		if !block.Is(err, block.NotFound) { // it may have been made all the same
			v.waste(volume)
		}
		return "", err
	}
	return volume, nil
}

// waste makes a volume garbage at once.
func (v *volumes) waste(volume string) {
	if err := v.store.addGarbage(volume); err != nil {
		v.log.Warn("cannot write down garbage; Cleanup finds it by its name", zap.String("volume", volume), zap.Error(err))
	}
	v.kick()
}

// kick has garbage cleared soon.
func (v *volumes) kick() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}
