package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
	"github.com/slackerd/slacker/segment"
)

// Orphan is something in the store that nothing refers to. The collector takes
// it when it can be sure that it is of no use; what damage may have left stays,
// for somebody to look at.
type Orphan struct {
	Kind, Object, Detail string
	Bytes                uint64
	Collected            bool
}

// Orphans lists what nothing refers to, as of about now.
func (s *Store) Orphans(ctx context.Context) (orphans []Orphan, err error) {
	if err := s.settled(ctx); err != nil {
		return nil, err
	}
	for _, l := range s.tree.Doomed() {
		orphans = append(orphans, Orphan{"layer", fmt.Sprintf("layer %d", l.ID), "no volume and no snapshot sees it", s.tree.DataBlocks(l) * block.Size, true})
	}
	segments := map[block.SegmentID]bool{}
	pos, _ := s.log.DurablePos()
	for _, g := range s.log.Segments() {
		segments[g.ID] = true
		if !g.Active && g.ID < pos.Segment && s.tree.Live(g.ID) == 0 {
			orphans = append(orphans, Orphan{"segment", segment.FileName(g.ID), "nothing in it is in use", uint64(g.Bytes), true})
		}
	}
	for _, id := range s.log.Unreadable() {
		segments[id] = true
		if s.tree.Live(id) == 0 {
			orphans = append(orphans, Orphan{"segment", segment.FileName(id), "its header does not verify, and nothing in it is in use: look at it, then remove it", 0, false})
		}
	}
	files, err := s.strayFiles()
	if err != nil {
		return nil, err
	}
	stray, err := s.strayRecords(ctx, segments)
	return append(append(orphans, files...), stray...), err
}

// strayFiles lists the files beside the segments that are none.
func (s *Store) strayFiles() (orphans []Orphan, err error) {
	dir := s.o.FS.PathJoin(s.o.Dir, "segments")
	names, err := s.o.FS.List(dir)
	if err != nil {
		return nil, block.Errorf(block.IO, "list %s: %w", dir, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if segment.IsFile(name) {
			continue
		}
		o := Orphan{Kind: "file", Object: "segments/" + name, Detail: "it is no segment: somebody else put it there"}
		if info, err := s.o.FS.Stat(s.o.FS.PathJoin(dir, name)); err == nil {
			o.Bytes = uint64(max(0, info.Size()))
		}
		orphans = append(orphans, o)
	}
	return orphans, nil
}

// strayRecords lists what the map has for layers and segments that do not exist.
func (s *Store) strayRecords(ctx context.Context, segments map[block.SegmentID]bool) (orphans []Orphan, err error) {
	a, err := s.tree.Audit(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	known := map[cow.MapID]bool{}
	for _, l := range a.Catalog().Layers {
		known[l.Map] = true
	}
	maps, err := a.Maps()
	for _, m := range maps {
		if !known[m] {
			orphans = append(orphans, Orphan{"map", fmt.Sprintf("map %d", m), "it has pages, and no layer has it", 0, false})
		}
	}
	for id, n := range a.Catalog().Live {
		if !segments[id] && !s.log.Exists(id) {
			orphans = append(orphans, Orphan{"counter", fmt.Sprintf("segment %d", id), fmt.Sprintf("%d blocks are counted in it, and it does not exist", n), 0, false})
		}
	}
	for from, f := range a.Catalog().Merged {
		if s.tree.Layer(from) == nil {
			orphans = append(orphans, Orphan{"forward", fmt.Sprintf("merged layer %d", from), fmt.Sprintf("it leads to layer %d, which does not exist", f.Into), 0, true})
		}
	}
	slices.SortFunc(orphans, func(x, y Orphan) int { return strings.Compare(x.Kind+x.Object, y.Kind+y.Object) })
	return orphans, err
}
