package snapshotter

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
)

// reapInterval is how often garbage that could not be cleared is tried again,
// and how long a first search for what a kill left may wait.
const reapInterval = 5 * time.Second

// reaper clears garbage in the background.
type reaper struct {
	wake   chan struct{}
	cancel context.CancelFunc
	ended  chan struct{}
}

func (r *reaper) kick() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (s *Snapshotter) startReaper() {
	ctx, cancel := context.WithCancel(context.Background())
	s.reaper = reaper{make(chan struct{}, 1), cancel, make(chan struct{})}
	s.spares = spares{make(chan want, 1), make(chan struct{})}
	go s.reap(ctx)
	go s.stock(ctx)
}

func (s *Snapshotter) stopReaper() {
	s.reaper.cancel()
	<-s.reaper.ended
	<-s.spares.ended
}

func (s *Snapshotter) reap(ctx context.Context) {
	defer close(s.reaper.ended)
	searched, complaint := false, ""
	tick := time.NewTicker(reapInterval)
	defer tick.Stop()
	for {
		var err error
		if !searched {
			err = s.search(ctx)
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
		case <-s.reaper.wake:
		}
	}
}

// Remove removes a snapshot; its volume goes in the background.
func (s *Snapshotter) Remove(_ context.Context, key string) error {
	defer s.locks.lock(key)()
	_, err := s.store.remove(key, func(r *record) string {
		if r.Kind != snapshots.KindCommitted {
			return r.Volume
		}
		if v := volumeOf(r.Place); strings.HasPrefix(v, s.names.own) {
			return v
		}
		return ""
	})
	s.reaper.kick()
	return toContainerd(err)
}

// Cleanup clears all garbage, and what a kill has left without a trace in the
// store. Stones wait on.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	err := s.search(ctx)
	return toContainerd(errors.Join(err, s.clear(ctx, now())))
}

// search makes garbage of the volumes of this store that nothing needs (N3).
func (s *Snapshotter) search(ctx context.Context) error {
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
func (s *Snapshotter) clear(ctx context.Context, at time.Time) error {
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

func (s *Snapshotter) clearOne(ctx context.Context, volume string) error {
	defer s.locks.lock("volume " + volume)()
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
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if err := s.devices.down(ctx, volume); err != nil {
		return err
	}
	if err := s.server.delete(ctx, volume); err != nil {
		return err
	}
	return s.store.forgetGarbage(volume)
}
