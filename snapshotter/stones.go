package snapshotter

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// spareAfterPull is how long after a chain was found at the server a spare for
	// it is made, unless a chain on it is found meanwhile.
	spareAfterPull = 30 * time.Millisecond
	// spareAfterUse leaves a container that starts the processors for a moment.
	spareAfterUse = 400 * time.Millisecond
	// spareLife is how long a spare waits.
	spareLife = time.Minute
)

// stones are working volumes without a record that are attached and hold just
// what a place does: stepping stones, and spares. The zero value is ready.
type stones struct {
	mu   sync.Mutex
	list []stone
}

type stone struct {
	volume, place string
	until         time.Time
}

func (s *stones) put(volume, place string, life time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, stone{volume, place, time.Now().Add(life)})
}

// take returns a stone whose content is place, which is the caller's then, or
// "" (N7). It calls taken before the stone is gone from here.
func (s *stones) take(place string, taken func(volume string)) (volume string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, st := range s.list {
		if st.place == place {
			taken(st.volume)
			s.list = append(s.list[:i:i], s.list[i+1:]...)
			return st.volume
		}
	}
	return ""
}

// expire drops the stones that have waited their time at now, and returns them.
func (s *stones) expire(now time.Time) (volumes []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var kept []stone
	for _, st := range s.list {
		if now.Before(st.until) {
			kept = append(kept, st)
		} else {
			volumes = append(volumes, st.volume)
		}
	}
	s.list = kept
	return volumes
}

// count returns how many stones there are, and how many hold place.
func (s *stones) count(place string) (all, of int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.list {
		if st.place == place {
			of++
		}
	}
	return len(s.list), of
}

func (s *stones) has(volume string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.list {
		if st.volume == volume {
			return true
		}
	}
	return false
}

// spares makes working volumes ahead of the containers that will want them: the
// place that was wanted last, after a delay in which another may take its turn.
type spares struct {
	*volumes
	wanted chan want
	ended  chan struct{}
}

type want struct {
	place string
	after time.Duration
}

func (s *spares) want(place string, after time.Duration) {
	for {
		select {
		case s.wanted <- want{place, after}:
			return
		default:
		}
		select {
		case <-s.wanted: // an older one
		default:
		}
	}
}

// stock makes the spares that are wanted, until ctx ends.
func (s *spares) stock(ctx context.Context) {
	defer close(s.ended)
	var next want
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case next = <-s.wanted:
			due = time.After(next.after)
		case <-due:
			due = nil
			if all, of := s.stones.count(next.place); of > 0 || all >= s.o.Spares {
				continue
			}
			if err := s.make(ctx, next.place); err != nil && ctx.Err() == nil {
				s.log.Info("no spare", zap.String("place", next.place), zap.Error(err))
			}
		}
	}
}

// make makes a volume that is mounted and waits.
func (s *spares) make(ctx context.Context, place string) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	unlock, err := s.locks.lock(ctx, "place "+place)
	if err != nil {
		return err
	}
	defer unlock()
	volume, err := s.clone(ctx, place)
	if err != nil {
		return err
	}
	if _, err = s.devices.up(ctx, volume, false); err == nil {
		s.stones.put(volume, place, spareLife)
	}
	s.flight.done(volume)
	if err != nil {
		s.waste(volume)
	}
	return err
}
