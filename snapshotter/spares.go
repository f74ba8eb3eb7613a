package snapshotter

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"
)

const (
	// spareLife is how long a spare waits.
	spareLife = time.Minute
	// maxHabits is of how many places it is known what their containers open.
	maxHabits = 16
)

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
// What the last containers of the place have opened is read into memory there: a
// device of its own has a page cache of its own.
type spares struct {
	*volumes
	wanted chan want
	ended  chan struct{}
	habits []habit // of stock alone; the one used last comes last
}

// want is a place of which there should be a spare.
type want struct {
	place  string
	after  []time.Duration // when it is looked after, each after the one before
	volume string          // of the container that starts
	opens  *opens          // by that container, or nil
}

// habit is what containers of a place open when they start.
type habit struct {
	place string
	files []opened
}

func (s *spares) want(w want) {
	for {
		select {
		case s.wanted <- w:
			return
		default:
		}
		select {
		case older := <-s.wanted:
			older.opens.close()
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
	o, err := watchOpens(dir)
	if err != nil {
		s.log.Debug("nothing will be read ahead", zap.Error(err))
	}
	s.want(want{place, spareAfterUse, volume, o})
}

// stock makes the spares that are wanted, until ctx ends.
func (s *spares) stock(ctx context.Context) {
	defer close(s.ended)
	var next want
	defer func() { next.opens.close() }()
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-s.wanted:
			next.opens.close()
			next = w
		case <-due:
			next.after = next.after[1:]
			if err := s.tend(ctx, &next); err != nil && ctx.Err() == nil {
				s.log.Info("no spare", zap.String("place", next.place), zap.Error(err))
			}
		}
		if due = nil; len(next.after) > 0 {
			due = time.After(next.after[0])
			continue
		}
		next.opens.close()
		next.opens = nil
	}
}

// tend sees to it that there is a spare, and that what is known to be opened is in
// memory there.
func (s *spares) tend(ctx context.Context, w *want) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if w.opens != nil {
		var files []opened
		dir, handles := w.opens.dir, w.opens.take()
		if err := s.touch(ctx, w.volume, func() { files = lookAt(dir, handles) }); err != nil {
			return err
		}
		s.learn(w.place, files)
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
	}
	i := slices.IndexFunc(s.habits, func(h habit) bool { return h.place == w.place })
	if i < 0 || spare.dir == "" {
		return nil
	}
	files := s.habits[i].files
	return s.touch(ctx, spare.volume, func() {
		readAhead(spare.dir, files, func() bool { return s.stones.has(spare.volume) })
	})
}

// touch calls fn, which opens files of a volume and may hang in the kernel while the
// server is away, and waits for it no longer than ctx says. Nobody takes the volume
// down until fn has ended.
func (s *spares) touch(ctx context.Context, volume string, fn func()) error {
	unlock, err := s.locks.lock(ctx, "volume "+volume)
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

// learn adds what a container has opened to the habits of its place; what was
// opened last comes first.
func (s *spares) learn(place string, files []opened) {
	h := habit{place: place}
	if i := slices.IndexFunc(s.habits, func(h habit) bool { return h.place == place }); i >= 0 {
		h = s.habits[i]
		s.habits = slices.Delete(s.habits, i, i+1)
	}
	now := map[string]bool{}
	for _, f := range files {
		now[f.path] = true
	}
	for _, f := range h.files {
		if !now[f.path] && len(files) < maxOpened {
			files = append(files, f)
		}
	}
	h.files = files
	s.habits = append(s.habits, h)
	s.habits = s.habits[max(0, len(s.habits)-maxHabits):]
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
