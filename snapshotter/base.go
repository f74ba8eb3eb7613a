package snapshotter

import (
	"context"
	"sync/atomic"

	"github.com/slackerd/slacker/block"
)

// baseFormat changes when an empty file system is made in another way.
const baseFormat = 1

// base is the empty file system, which the first worker that needs it makes.
type base struct {
	*volumes
	made atomic.Bool
}

// ensure returns its place.
func (s *base) ensure(ctx context.Context) (place string, err error) {
	place = s.names.prefix.Base(baseFormat, s.names.size)
	if s.made.Load() {
		return place, nil
	}
	unlock, err := s.locks.lock(ctx, "base") // one request makes it
	if err != nil {
		return "", err
	}
	defer unlock()
	_, err = s.server.find(ctx, place)
	if block.Is(err, block.NotFound) {
		err = s.make(ctx, place)
	}
	s.made.Store(err == nil)
	return place, err
}

func (s *base) make(ctx context.Context, place string) error {
	volume := s.fresh()
	defer s.waste(volume)
	defer s.flight.done(volume)
	if err := s.server.create(ctx, volume, s.names.size); err != nil {
		return err
	}
	if err := s.devices.format(ctx, volume); err != nil {
		return err
	}
	_, err := s.devices.settled(ctx, volume, func() error {
		_, err := s.server.publish(ctx, volume, place)
		if block.Is(err, block.Exists) {
			return nil // another worker was first
		}
		return err
	})
	return err
}
