package snapshotter

import (
	"sync"
	"time"
)

// stones are the working volumes that are attached, unmounted, and hold just
// what was committed as a place. Each is garbage in the store, so that a kill
// leaves nothing. The zero value is ready.
type stones struct {
	mu   sync.Mutex
	list []stone
}

type stone struct {
	volume, place string
	since         time.Time
}

func (s *stones) put(volume, place string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, stone{volume, place, time.Now()})
}

// take returns a stone whose content is place, which is the caller's then, or
// "". It calls taken before the stone is gone from here.
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

// drop makes stones garbage in truth: those older than idle.
func (s *stones) drop(idle time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var kept []stone
	for _, st := range s.list {
		if time.Since(st.since) < idle {
			kept = append(kept, st)
		}
	}
	s.list = kept
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
