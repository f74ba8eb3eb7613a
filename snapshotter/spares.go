package snapshotter

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/slackerd/slacker/boottrace"
)

// spareLife is how long a spare waits.
const spareLife = time.Minute

var (
	// spareAfterPull is how long after a chain was found at the server a spare for
	// it is made, unless a chain on it is found meanwhile.
	spareAfterPull = []time.Duration{30 * time.Millisecond}
	// spareAfterUse leaves a container that starts the processors for a moment. What
	// it opens later is read ahead later.
	spareAfterUse = []time.Duration{150 * time.Millisecond, time.Second, 3 * time.Second}
)

// spares makes working volumes ahead of the containers that will want them: the
// place that was wanted last, after a delay in which another may take its turn.
// What the last containers of the place have opened, here or on another worker, is read
// into memory there, and for a container that found no spare while it is created: a
// device of its own has a page cache of its own.
type spares struct {
	*volumes
	habits  *habits
	wanted  chan want
	learned chan string // place of which more is known
	ended   chan struct{}
}

// want is a place of which there should be a spare.
type want struct {
	place  string
	after  []time.Duration // when it is looked after, each after the one before
	volume string          // of the container that starts
	dir    string          // where that is mounted
}

func (s *spares) want(w want) {
	for {
		select {
		case s.wanted <- w:
			return
		default:
		}
		select {
		case <-s.wanted:
		default:
		}
	}
}

// used wants a spare in the place of one that a container starts on now, on a
// volume that is mounted at dir.
func (s *spares) used(place, volume, dir string) {
	if s.o.Spares == 0 {
		return
	}
	s.hear(place, volume)
	o, err := watchOpens(dir)
	if err != nil {
		s.log.Debug("it will not be known what to read ahead", zap.Error(err))
	} else {
		s.habits.watch(watched{place, volume, o})
	}
	s.want(want{place, spareAfterUse, volume, dir})
}

// hear takes over what the server has told of a place when a volume was attached.
func (s *spares) hear(place, volume string) {
	told := s.devices.takeFiles(volume, place)
	if len(told) == 0 {
		return
	}
	files, err := boottrace.DecodeFiles(told)
	if err != nil {
		s.log.Warn("what the server tells of files is not read ahead", zap.String("place", place), zap.Error(err))
		return
	}
	s.habits.hear(place, files)
}

// stock makes the spares that are wanted, until ctx ends.
func (s *spares) stock(ctx context.Context) {
	defer close(s.ended)
	defer s.habits.unwatch("")
	var next want
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case next = <-s.wanted:
			s.start(ctx, next)
		case place := <-s.learned:
			if place == next.place && len(next.after) == len(spareAfterUse) {
				s.start(ctx, next)
			}
		case <-due:
			next.after = next.after[1:]
			if err := s.tend(ctx, &next); err != nil && ctx.Err() == nil {
				s.log.Info("no spare", zap.String("place", next.place), zap.Error(err))
			}
		}
		if due = nil; len(next.after) > 0 {
			due = time.After(next.after[0])
		}
	}
}

// start reads ahead for a container that starts.
func (s *spares) start(ctx context.Context, w want) {
	if w.volume == "" {
		return
	}
	if err := s.ahead(ctx, w.place, w.volume, w.dir); err != nil {
		s.log.Debug("not read ahead", zap.String("volume", w.volume), zap.Error(err))
	}
}

// tend sees to it that there is a spare, and that what is known to be opened is in
// memory there.
func (s *spares) tend(ctx context.Context, w *want) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if err := s.look(ctx, w.volume, len(w.after) == 0); err != nil {
		return err
	}
	all, spare := s.stones.find(w.place)
	if spare == nil {
		if all >= s.o.Spares {
			return nil
		}
		var err error
		if spare, err = s.make(ctx, w.place); err != nil {
			return err
		}
		s.hear(w.place, spare.volume)
	}
	if spare.dir == "" { // a stepping stone
		return nil
	}
	return s.ahead(ctx, w.place, spare.volume, spare.dir)
}

// ahead reads into memory what is known to be opened of a place, on a volume of it that
// is mounted at dir, until somebody waits for the volume.
func (s *spares) ahead(ctx context.Context, place, volume, dir string) error {
	files := s.habits.of(place)
	if len(files) == 0 {
		return nil
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	return s.touch(ctx, volume, func() { readAhead(dir, files, s.wantedOn(volume)) })
}

// wantedOn reports whether nobody waits for a volume, to commit it or to take it down.
func (s *spares) wantedOn(volume string) func() bool {
	return func() bool { return !s.locks.awaited(volumeLock(volume)) }
}

// look learns what the container on a volume has opened, if it is watched, and tells
// the server when this was the last look.
func (s *spares) look(ctx context.Context, volume string, last bool) error {
	w, ok := s.habits.watchedOn(volume)
	if !ok {
		return nil
	}
	if err := s.touch(ctx, volume, func() { s.habits.learn(w.place, w.opens.look()) }); err != nil || !last {
		return err
	}
	s.habits.unwatch(volume)
	select {
	case s.learned <- w.place: // the next container may have begun
	default:
	}
	if news := s.habits.news(w.place); len(news) > 0 {
		if err := s.devices.tellFiles(ctx, volume, w.place, boottrace.EncodeFiles(news)); err != nil {
			s.log.Debug("the server does not keep what containers open", zap.String("place", w.place), zap.Error(err))
			return nil
		}
		s.habits.told(w.place, news)
	}
	return nil
}

// touch calls fn, which opens files of a volume and may hang in the kernel while the
// server is away, and waits for it no longer than ctx says. Nobody takes the volume
// down until fn has ended.
func (s *spares) touch(ctx context.Context, volume string, fn func()) error {
	unlock, err := s.locks.lock(ctx, volumeLock(volume))
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer unlock()
		fn()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// make makes a volume that is mounted and waits.
func (s *spares) make(ctx context.Context, place string) (*stone, error) {
	unlock, err := s.locks.lock(ctx, "place "+place)
	if err != nil {
		return nil, err
	}
	defer unlock()
	volume, err := s.clone(ctx, place)
	if err != nil {
		return nil, err
	}
	spare := stone{volume: volume, place: place}
	if spare.dir, err = s.devices.up(ctx, volume, false); err == nil {
		s.stones.put(spare, spareLife)
	}
	s.flight.done(volume)
	if err != nil {
		s.waste(volume)
	}
	return &spare, err
}
