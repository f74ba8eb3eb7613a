package volume

import (
	"context"
	"fmt"

	"github.com/slackerd/slacker/block"
)

// maxDirtyBytes and maxDirtyRuns bound what one Dirty looks at.
const (
	maxDirtyBytes = 4 << 30
	maxDirtyRuns  = 16 << 10
)

// BaseInfo names what an attachment starts from: the snapshot below the head of
// its volume, or the snapshot that is attached. What the volume has not written
// since is what the snapshot holds.
type BaseInfo struct {
	// ID names the contents of the snapshot, for ever: no other snapshot of this
	// or another store has it, whatever it is called, also when the store was
	// restored from a copy.
	ID        string
	Target    string // VOLUME@SNAPSHOT
	SizeBytes uint64
	// Clean: nothing was written since.
	Clean bool
}

// baseID is made of the store, of a number that it gives once, and of when the
// snapshot was made, which tells the numbers apart that a store and a copy of it
// gave each for itself.
func (s *Store) baseID(sn *snap) string {
	return fmt.Sprintf("%x-%x-%x", s.db.StoreID(), uint64(sn.rec.Layer), sn.rec.Created.UnixNano())
}

// baseOf returns the snapshot that an attachment is of, or that the head of its
// volume lies on directly; nil when there is none that has a name. Called with
// s.mu held.
func (s *Store) baseOf(a *attachment) (*vol, *snap) {
	if a.rec.Snapshot != "" {
		return a.v, a.v.snaps[a.rec.Snapshot]
	}
	if a.rec.ReadOnly { // somebody else may write to the volume
		return nil, nil
	}
	below := s.tree.Parent(a.v.head.Load())
	if below == nil {
		return nil, nil
	}
	for _, sn := range a.v.snaps {
		if sn.layer == below {
			return a.v, sn
		}
	}
	if a.v.rec.Origin == "" {
		return nil, nil
	}
	// The name may be another's by now; the layer says.
	if v, sn, err := s.find(a.v.rec.Origin); err == nil && sn != nil && sn.layer == below {
		return v, sn
	}
	return nil, nil
}

// describeBase fills in the base of an attachment, which has no other writer.
// Called with s.mu held.
func (s *Store) describeBase(ctx context.Context, a *attachment, i *AttachmentInfo) error {
	v, sn := s.baseOf(a)
	if sn == nil {
		return nil
	}
	clean := a.rec.Snapshot != ""
	if !clean {
		var err error
		if clean, err = s.tree.Untouched(ctx, a.v.head.Load()); err != nil {
			return err
		}
	}
	i.Base = &BaseInfo{ID: s.baseID(sn), Target: v.rec.Name + "@" + sn.rec.Name, SizeBytes: sn.rec.SizeBytes, Clean: clean}
	return nil
}

// Dirty says what an attachment's volume may have written since its base, from
// offBytes on: the answer covers some bytes, and all that it does not cover is
// asked for next. It is an error of kind NotFound when the volume has another
// base by now, as after a snapshot.
func (s *Store) Dirty(ctx context.Context, attachmentID, baseID string, offBytes uint64) ([]Changed, error) {
	base, err := s.openBaseOf(ctx, attachmentID, baseID)
	if err != nil {
		return nil, err
	}
	defer func() { _ = base.Close() }() // never fails
	d, err := s.OpenInfo(ctx, ":"+attachmentID, "dirty")
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }() // never fails
	size := d.sizeBytes
	if offBytes >= size || offBytes%block.Size != 0 {
		return nil, block.Errorf(block.Invalid, "dirty blocks of attachment %.64s from %d: want a multiple of %d below %d", attachmentID, offBytes, block.Size, size)
	}
	return d.Changed(ctx, nil, base, offBytes, min(size-offBytes, maxDirtyBytes), maxDirtyRuns)
}

// BaseTarget names the base of an attachment, VOLUME@SNAPSHOT, which has to have
// that identity.
func (s *Store) BaseTarget(attachmentID, baseID string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.baseTarget(attachmentID, baseID)
}

func (s *Store) baseTarget(attachmentID, baseID string) (string, error) {
	if a := s.attachments[attachmentID]; a != nil {
		if v, sn := s.baseOf(a); sn != nil && s.baseID(sn) == baseID {
			return v.rec.Name + "@" + sn.rec.Name, nil
		}
	}
	return "", block.Errorf(block.NotFound, "attachment %.64s does not lie on base %.100s", attachmentID, baseID)
}

// openBaseOf opens the base of an attachment.
func (s *Store) openBaseOf(ctx context.Context, attachmentID, baseID string) (*Base, error) {
	target, err := s.BaseTarget(attachmentID, baseID)
	if err != nil {
		return nil, err
	}
	base, err := s.OpenBase(ctx, target, "base of "+attachmentID)
	if err != nil {
		return nil, err
	}
	if s.baseID(base.d.sn) != baseID { // replaced by another of its name meanwhile
		_ = base.Close() // never fails
		return nil, block.Errorf(block.NotFound, "base %.100s is gone", baseID)
	}
	return base, nil
}
