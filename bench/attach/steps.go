package main

import "time"

const (
	whole  = "clone, attach and mount, in all"
	detach = "detach"
)

// figure is how long one step took, by round.
type figure struct {
	Through string    `json:"through"`
	Step    string    `json:"step"`
	Millis  []float64 `json:"ms"`
}

// steps gathers how long steps take.
type steps struct {
	through string
	silent  bool
	found   map[string]int // place in list, by through and step
	list    []*figure
}

func newSteps() *steps { return &steps{found: map[string]int{}} }

func (s *steps) reset() { s.found, s.list = map[string]int{}, nil }

func (s *steps) add(step string, took time.Duration) {
	if s.silent {
		return
	}
	key := s.through + "\x00" + step
	i, ok := s.found[key]
	if !ok {
		i = len(s.list)
		s.found[key] = i
		s.list = append(s.list, &figure{Through: s.through, Step: step})
	}
	s.list[i].Millis = append(s.list[i].Millis, float64(took.Microseconds())/1000)
}

func (s *steps) figures() []*figure { return s.list }
