package scrub

import (
	"encoding/json"
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/check"
)

// maxDamages bounds how many damages a scrub remembers; More counts the others.
const maxDamages = 200

// State is how far the scrub is, and what it or the last one found.
type State struct {
	Running  bool            `json:"running"`
	After    block.SegmentID `json:"after"` // all up to this segment are verified
	Started  time.Time       `json:"started,omitzero"`
	Finished time.Time       `json:"finished,omitzero"` // when the last one that ended did
	Done     uint64          `json:"done_blocks"`
	Total    uint64          `json:"total_blocks"`
	Runs     uint64          `json:"runs"` // scrubs that came to their end
	Damages  []check.Damage  `json:"damages,omitempty"`
	More     uint64          `json:"more,omitempty"`
	// Problem is why the last slice could not be read, if it could not.
	Problem string `json:"problem,omitempty"`
}

// add notes damages that are not known yet, and returns those.
func (s *State) add(found []check.Damage) (fresh []check.Damage) {
	for _, d := range found {
		if s.knows(d) {
			continue
		}
		fresh = append(fresh, d)
		if len(s.Damages) < maxDamages {
			s.Damages = append(s.Damages, d)
		} else {
			s.More++
		}
	}
	return fresh
}

func (s *State) knows(d check.Damage) bool {
	for _, k := range s.Damages {
		if k.Kind == d.Kind && k.Object == d.Object {
			return true
		}
	}
	return false
}

func load(b []byte) (s State, err error) {
	if b == nil {
		return s, nil
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return State{}, block.Errorf(block.Corrupt, "state of the scrub: %w", err)
	}
	return s, nil
}
