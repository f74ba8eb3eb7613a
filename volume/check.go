package volume

import (
	"context"
	"errors"
	"os"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/check"
	"github.com/slackerd/slacker/segment"
	"go.uber.org/zap"
)

// Check looks for damage in the store and returns what it finds; data says
// whether every live block is read. It may run beside everything else. An error
// means that the check could not be finished.
func (s *Store) Check(ctx context.Context, data bool, progress func(done, total uint64, unit string)) ([]check.Damage, error) {
	return check.Run(ctx, check.Options{
		Tree: s.tree, Log: s.log, Flush: s.settled, Data: data, Progress: progress,
		Orphan: func(g segment.Info) {
			s.o.Logger.Info("nothing is in use in this segment; the next collection deletes it", zap.Uint64("segment", uint64(g.ID)), zap.Int64("bytes", g.Bytes))
		},
	})
}

// settled is Flush for the checker: in a store that is fenced nothing changes
// any more, and what is committed can be checked as it is.
func (s *Store) settled(ctx context.Context) error {
	if s.Fault() != nil {
		return nil
	}
	return s.Flush(ctx)
}

// CheckDir checks a store that no process has open. It opens it, which replays
// the log, and never makes one. A store that cannot be opened is an error that
// says what is damaged; nothing has been changed then.
func CheckDir(ctx context.Context, o Options, data bool, progress func(done, total uint64, unit string)) (damages []check.Damage, err error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	o.MustExist = true
	// Opening would make the directories of a store that is not there.
	if _, err := o.FS.Stat(o.FS.PathJoin(o.Dir, "map")); err != nil {
		kind := block.NotFound
		if errors.Is(err, os.ErrPermission) {
			kind = block.Permission
		}
		return nil, block.Errorf(kind, "check %s: want the data directory of a store: %w", o.Dir, err)
	}
	s, err := Open(o)
	if err != nil {
		return nil, block.Wrap(block.IO, err, "check "+o.Dir)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return s.Check(ctx, data, progress)
}
