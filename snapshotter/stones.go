package snapshotter

import (
	"sync"
	"time"
)

// stones are working volumes without a record that are attached and hold just
// what a place does: stepping stones, and spares. The zero value is ready.
type stones struct {
	mu   sync.Mutex
	list []stone
}

type stone struct {
	volume, place string
	dir           string // of a spare: where it is mounted
	until         time.Time
}

func (s *stones) put(st stone, life time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.until = time.Now().Add(life)
	s.list = append(s.list, st)
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

// find returns how many stones there are, and one of place, which stays there.
func (s *stones) find(place string) (all int, of *stone) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.list {
		if st.place == place {
			of = &st
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
