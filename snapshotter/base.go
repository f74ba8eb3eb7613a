package snapshotter

import (
	"context"
	"fmt"

	"github.com/slackerd/slacker/block"
)

// baseFormat changes when an empty file system is made in another way.
const baseFormat = 1

// ensureBase returns the place of the empty file system, which the first worker
// that needs it makes.
func (s *Snapshotter) ensureBase(ctx context.Context) (place string, err error) {
	place = placeOf(fmt.Sprintf("%s/base/ext4-%d-%d", s.names.prefix, baseFormat, s.names.size))
	s.base.Lock()
	defer s.base.Unlock()
	if s.based {
		return place, nil
	}
	_, err = s.server.find(ctx, place)
	if block.Is(err, block.NotFound) {
		err = s.makeBase(ctx, place)
	}
	s.based = err == nil
	return place, err
}

func (s *Snapshotter) makeBase(ctx context.Context, place string) error {
	volume := s.newVolume()
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
