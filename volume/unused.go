package volume

import (
	"context"
	"strings"
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
)

// DeleteUnused removes a volume with its snapshots, if no other volume's origin
// is one of them, and none was since the time given; else it is Busy (V11). What
// is younger counts as used.
func (s *Store) DeleteUnused(_ context.Context, name string, since time.Time) ([]string, error) {
	return s.delete(name, func(v *vol) error {
		if err := s.deletable(v, true); err != nil {
			return err
		}
		return s.unusedSince(v, since)
	})
}

// unusedSince refuses a volume that others were made from. Called with s.mu held.
func (s *Store) unusedSince(v *vol, since time.Time) error {
	op := "delete volume " + v.rec.Name
	for _, other := range s.byName {
		if other != v && strings.HasPrefix(other.rec.Origin, v.rec.Name+"@") {
			return block.Errorf(block.Busy, "%s: %s was made of %s", op, other.rec.Name, other.rec.Origin)
		}
	}
	for _, sn := range v.snaps {
		used := sn.rec.Created
		if sn.rec.LastUsed.After(used) {
			used = sn.rec.LastUsed
		}
		if !used.Before(since) {
			return block.Errorf(block.Busy, "%s: %s@%s was used at %v: want nothing after %v", op, v.rec.Name, sn.rec.Name, used.Format(time.RFC3339), since.Format(time.RFC3339))
		}
	}
	return nil
}

// leaveOrigin writes down, in the transaction, that a volume is no clone of its
// origin any more; applied is to be called after the commit. With s.mu held.
func (s *Store) leaveOrigin(x *cow.Tx, v *vol) (applied func()) {
	name, snapshot, _ := strings.Cut(v.rec.Origin, "@")
	from := s.byName[name]
	if from == nil || from == v || from.snaps[snapshot] == nil {
		return func() {}
	}
	sn := from.snaps[snapshot]
	r := sn.rec
	r.LastUsed = s.o.Now()
	x.PutSnapshot(&r)
	return func() { sn.rec = r }
}
