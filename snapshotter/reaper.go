package snapshotter

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/naming"
)

// reapInterval is how often garbage that could not be cleared is tried again,
// and how long a first search for what a kill left may wait.
const reapInterval = 5 * time.Second

const beatBytes = block.Size

// reaper clears garbage in the background, and lets the server hear of the store.
type reaper struct {
	*volumes
	// part is called before a volume is taken down.
	part   func(ctx context.Context, volume string) error
	cancel context.CancelFunc
	ended  chan struct{}
	last   string // beat
}

func (s *reaper) reap(ctx context.Context) {
	defer close(s.ended)
	searched, complaint := false, ""
	var due time.Time
	tick := time.NewTicker(reapInterval)
	defer tick.Stop()
	for {
		var err error
		if s.o.Beat > 0 && !now().Before(due) {
			if err = s.beat(ctx); err == nil {
				due, searched = now().Add(s.o.Beat), false
			}
		}
		if err == nil && !searched {
			err = errors.Join(s.search(ctx), s.pinAll(ctx))
			searched = err == nil
		}
		if err == nil {
			err = s.clear(ctx, now())
		}
		switch {
		case err == nil:
			complaint = ""
		case ctx.Err() == nil && err.Error() != complaint:
			complaint = err.Error()
			s.log.Warn("some garbage stays for now", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.wake:
		}
	}
}

// search makes garbage of the volumes of this store that nothing needs (N3).
func (s *reaper) search(ctx context.Context) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	listed, err := s.server.list(ctx, s.names.own)
	if err != nil || len(listed) == 0 {
		return err
	}
	return s.store.condemn(listed, s.flight.has)
}

// clear takes garbage down and deletes it at the server, and the stones that
// have waited their time at that moment.
func (s *reaper) clear(ctx context.Context, at time.Time) error {
	if expired := s.stones.expire(at); len(expired) > 0 {
		if err := s.store.condemn(expired, s.flight.has); err != nil {
			return err
		}
	}
	volumes, err := s.store.garbage()
	if err != nil {
		return err
	}
	var errs []error
	for _, v := range volumes {
		if err := s.clearOne(ctx, v); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func (s *reaper) clearOne(ctx context.Context, volume string) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if err := s.part(ctx, volume); err != nil {
		return err
	}
	unlock, err := s.locks.lock(ctx, volumeLock(volume))
	if err != nil {
		return err
	}
	defer unlock()
	if !strings.HasPrefix(volume, s.names.own) {
		return block.Errorf(block.Internal, "garbage names %s, which is not of this store", volume)
	}
	// In this order: a stone that is taken is in flight before it is no stone, and
	// a record is written before its volume is in flight no more.
	if s.stones.has(volume) || s.flight.has(volume) {
		return nil
	}
	if condemned, err := s.store.condemned(volume); err != nil || !condemned {
		return err
	}
	if err := s.devices.down(ctx, volume); err != nil {
		return err
	}
	if err := s.server.delete(ctx, volume); err != nil {
		return err
	}
	return s.store.forgetGarbage(volume)
}

// beat makes a beat in the place of the last one (N10).
func (s *reaper) beat(ctx context.Context) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	volume := naming.Beat(s.names.own, strings.ToLower(rand.Text()[:13]))
	s.flight.add(volume)
	if err := s.server.create(ctx, volume, beatBytes); err != nil {
		s.flight.done(volume)
		s.waste(volume)
		return err
	}
	if s.last != "" {
		s.flight.done(s.last)
		s.waste(s.last)
	}
	s.last = volume
	return nil
}

// pinAll pins the chains of records that have no pin (N9): they were written before
// there were pins, or an admin has released them.
func (s *reaper) pinAll(ctx context.Context) error {
	records := s.store.all()
	bounded, cancel := s.bound(ctx)
	defer cancel()
	there, err := s.server.list(bounded, s.names.own) // all that the records name were made before
	if err != nil {
		return err
	}
	for name, r := range records {
		if r.Place == "" || r.Pin != "" && slices.Contains(there, r.Pin) || strings.HasPrefix(r.Place, s.names.own) {
			continue
		}
		if err := s.pin(ctx, name, r.Place); err != nil && !block.Is(err, block.NotFound) {
			return err
		}
	}
	return nil
}

func (s *reaper) pin(ctx context.Context, name, place string) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	unlock, err := s.locks.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	pin, err := s.clone(ctx, place)
	if err != nil {
		return err
	}
	err = s.store.change(name, func(r *record) { r.Pin = pin })
	s.flight.done(pin)
	if err != nil {
		s.waste(pin)
	}
	return err
}
