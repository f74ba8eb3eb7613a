package volume

import (
	"context"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/check"
)

// Scrub verifies a part of the store, see [check.Scrub]; throttle is called before
// that many bytes are read. It may run beside everything else.
func (s *Store) Scrub(ctx context.Context, after block.SegmentID, budget int64, throttle func(ctx context.Context, bytes int) error) (check.Slice, error) {
	return check.Scrub(ctx, check.Options{Tree: s.tree, Log: s.log, Flush: s.settled, Throttle: throttle}, after, budget)
}

// SaveScrub durably keeps what the scrubber wants to know after a restart.
func (s *Store) SaveScrub(state []byte) error {
	if err := s.Fault(); err != nil {
		return err
	}
	x := s.db.Begin()
	x.PutScrub(state)
	return s.commit(x)
}

// LoadScrub returns what was kept, or nil.
func (s *Store) LoadScrub() ([]byte, error) { return s.db.Scrub() }
