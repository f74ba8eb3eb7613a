package volume

import (
	"context"

	"github.com/slackerd/slacker/block"
)

// Prepare makes a store that is in use short to open for a program that replaces
// this one: what was written is in the map, the map in its tables and no
// compaction at work; from now on changes stay in the log, from which they are
// read faster, while there is room for them in memory.
func (s *Store) Prepare(ctx context.Context) error {
	s.leaving.Store(true)
	for range prepareRounds {
		if err := s.Flush(ctx); err != nil {
			return err
		}
		if err := s.db.Settle(); err != nil || !s.db.Compacting() {
			return err
		}
		if err := s.db.AwaitCompactions(ctx); err != nil {
			return err
		}
	}
	return nil
}

// prepareRounds bounds how often Prepare brings the map up to date because the
// time before began a compaction. After one that ended the next does not.
const prepareRounds = 3

// Leave hands the store to a program that replaces this one in the same process,
// and opens it with Options.LogEndsBefore as returned. Devices must be closed and
// everything else that uses the store must have ended. Nothing waits for the
// disk: the state is the one that a kill of this process would leave, which is
// what opening recovers from (V10). When nobody takes over, Close is next.
func (s *Store) Leave() (endsBefore uint64, err error) {
	s.stop()
	s.done.Wait()
	s.tree.Close()
	if err := s.Fault(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return 0, block.Errorf(block.Unavailable, "leave the store: it is closed")
	}
	end, err := s.log.Leave()
	return uint64(end), err
}
