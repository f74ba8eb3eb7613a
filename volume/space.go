package volume

import (
	"context"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
)

// usageOf names the layers of targets: a volume, a snapshot, or a volume with
// its snapshots.
func (s *Store) usageOf(target string, withSnapshots bool) (layers []*cow.Layer, targets []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, sn, err := s.find(target)
	if err != nil {
		return nil, nil, err
	}
	if sn != nil {
		return []*cow.Layer{sn.layer}, []string{target}, nil
	}
	layers, targets = []*cow.Layer{v.head.Load()}, []string{target}
	if withSnapshots {
		targets = s.targets(v)
		for _, sn := range v.snaps {
			layers = append(layers, sn.layer)
		}
	}
	return layers, targets, nil
}

// Space counts what a volume or snapshot holds. It takes time in proportion to
// the pages of its extent map.
func (s *Store) Space(ctx context.Context, target string) (Space, error) {
	u, _, err := s.usage(ctx, target, false)
	return Space{LogicalBytes: u.Logical * block.Size, ExclusiveBytes: u.Exclusive * block.Size,
		SharedBytes: (u.Logical - u.Exclusive) * block.Size, WouldFreeBytes: u.Exclusive * block.Size}, err
}

// WouldFree returns how many bytes deleting the target would free, and what
// would be deleted; together with it volumes also, with their snapshots.
func (s *Store) WouldFree(ctx context.Context, target string, withSnapshots bool, also ...string) (uint64, []string, error) {
	u, targets, err := s.usage(ctx, target, withSnapshots, also...)
	return u.Exclusive * block.Size, targets, err
}

func (s *Store) usage(ctx context.Context, target string, withSnapshots bool, also ...string) (cow.Usage, []string, error) {
	layers, targets, err := s.usageOf(target, withSnapshots)
	if err != nil {
		return cow.Usage{}, nil, err
	}
	for _, name := range also {
		if err := block.CheckVolumeName(name); err != nil {
			return cow.Usage{}, nil, err
		}
		l, t, err := s.usageOf(name, true)
		if err != nil {
			return cow.Usage{}, nil, err
		}
		layers, targets = append(layers, l...), append(targets, t...)
	}
	if err := s.Flush(ctx); err != nil {
		return cow.Usage{}, nil, err
	}
	u, err := s.tree.Usage(ctx, layers)
	return u, targets, err
}
