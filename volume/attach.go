package volume

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sort"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
	"go.uber.org/zap"
)

// writer returns the writable attachment of a volume, or nil. Called with s.mu
// held.
func (s *Store) writer(v *vol) *attachment {
	for a := range v.holders {
		if !a.rec.ReadOnly {
			return a
		}
	}
	return nil
}

func (s *Store) addAttachment(r cow.AttachmentRecord, v *vol) *attachment {
	a := &attachment{rec: r, v: v, slots: map[uint32]*Device{}}
	s.attachments[r.ID] = a
	v.holders[a] = struct{}{}
	return a
}

func newID() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func (s *Store) attachmentInfo(a *attachment) AttachmentInfo {
	i := AttachmentInfo{ID: a.rec.ID, Target: a.v.rec.Name, Worker: a.rec.Worker, ReadOnly: a.rec.ReadOnly,
		Generation: a.rec.Generation, SizeBytes: a.v.size.Load(), Created: a.rec.Created}
	if a.rec.Snapshot != "" {
		i.Target += "@" + a.rec.Snapshot
		if sn := a.v.snaps[a.rec.Snapshot]; sn != nil {
			i.SizeBytes = sn.rec.SizeBytes
		}
	}
	i.ExportName = i.Target + ":" + a.rec.ID
	for _, d := range a.slots {
		if s.isOpen(d) {
			i.Connections++
		}
	}
	return i
}

func (s *Store) isOpen(d *Device) bool {
	open := d.v.devices
	if d.sn != nil {
		open = d.sn.devices
	}
	_, ok := open[d]
	return ok && !d.fenced.Load()
}

// Attach makes an attachment, or confirms one. A writable one is exclusive:
// while another holds, the request is refused with kind Busy, unless it takes
// over; then the other is fenced before Attach returns, and nothing of it can
// commit any more.
func (s *Store) Attach(ctx context.Context, r AttachRequest) (AttachmentInfo, error) {
	x, err := s.begin()
	if err != nil {
		return AttachmentInfo{}, err
	}
	defer s.mu.Unlock()
	if r.AttachmentID != "" {
		x.Discard()
		return s.confirm(ctx, r)
	}
	v, sn, err := s.find(r.Target)
	if err == nil {
		err = s.attachable(r, v, sn)
	}
	if err != nil {
		x.Discard()
		return AttachmentInfo{}, err
	}
	rec := cow.AttachmentRecord{ID: newID(), Volume: v.id, Worker: r.Worker, ReadOnly: r.ReadOnly, Created: s.o.Now()}
	if sn != nil {
		rec.Snapshot = sn.rec.Name
	}
	a, err := s.putAttachment(x, v, rec)
	if err != nil {
		return AttachmentInfo{}, err
	}
	return s.answer(ctx, a), nil
}

// answer describes an attachment with its base. A map that cannot be read shows
// itself when the volume is read; without a base nothing is wrong.
func (s *Store) answer(ctx context.Context, a *attachment) AttachmentInfo {
	i := s.attachmentInfo(a)
	if err := s.describeBase(ctx, a, &i); err != nil {
		s.o.Logger.Warn("the base of an attachment is not known", zap.String("target", i.Target), zap.Error(err))
	}
	return i
}

func (s *Store) confirm(ctx context.Context, r AttachRequest) (AttachmentInfo, error) {
	a := s.attachments[r.AttachmentID]
	if a == nil {
		return AttachmentInfo{}, block.Errorf(block.NotFound, "attachment %s does not hold any more: it was detached or taken over", r.AttachmentID)
	}
	return s.answer(ctx, a), nil
}

func (s *Store) attachable(r AttachRequest, v *vol, sn *snap) error {
	if r.Worker == "" || len(r.Worker) > block.MaxNameBytes {
		return block.Errorf(block.Invalid, "attach %s: the worker's name has %d bytes: want 1 to %d", r.Target, len(r.Worker), block.MaxNameBytes)
	}
	if r.ReadOnly {
		return nil
	}
	if sn != nil {
		return block.Errorf(block.ReadOnly, "attach %s: a snapshot can be attached read-only, or cloned", r.Target)
	}
	if r.Takeover {
		return nil
	}
	if a := s.writer(v); a != nil {
		return block.Errorf(block.Busy, "attach %s: it is attached by %s since %s (attachment %s); a takeover would fence that one",
			r.Target, a.rec.Worker, a.rec.Created.UTC().Format("2006-01-02 15:04:05 MST"), a.rec.ID)
	}
	if n := s.plainWriters(v); len(n) > 0 {
		return block.Errorf(block.Busy, "attach %s: it is open for writing by %d connections without an attachment (%s)", r.Target, len(n), n[0].remote)
	}
	return nil
}

// plainWriters returns the devices that write without an attachment.
func (s *Store) plainWriters(v *vol) (ds []*Device) {
	for d := range v.devices {
		if !d.readOnly && !d.infoOnly && d.attachment == nil && !d.fenced.Load() {
			ds = append(ds, d)
		}
	}
	return ds
}

// putAttachment commits the transaction with a new attachment. A writable one
// gets the next generation and takes the place of all other writers.
func (s *Store) putAttachment(x *cow.Tx, v *vol, rec cow.AttachmentRecord) (*attachment, error) {
	vr := v.rec
	var old *attachment
	if !rec.ReadOnly {
		vr.Generation++
		rec.Generation = vr.Generation
		x.PutVolume(&vr)
		if old = s.writer(v); old != nil {
			x.DeleteAttachment(old.rec.ID)
		}
	}
	x.PutAttachment(&rec)
	if err := s.commit(x); err != nil {
		return nil, err
	}
	v.rec = vr
	if !rec.ReadOnly {
		fenced := s.plainWriters(v)
		if old != nil {
			fenced = append(fenced, s.release(old)...)
		}
		s.fence(block.Errorf(block.Fenced, "volume %s was attached by %s", v.rec.Name, rec.Worker), fenced...)
	}
	return s.addAttachment(rec, v), nil
}

// release forgets an attachment and returns its open devices.
func (s *Store) release(a *attachment) (ds []*Device) {
	delete(s.attachments, a.rec.ID)
	delete(a.v.holders, a)
	for _, d := range a.slots {
		if s.isOpen(d) {
			ds = append(ds, d)
		}
	}
	return ds
}

// Detach ends an attachment. Its connections are fenced. What they wrote and
// flushed stays; what they did not flush stays too, but a crash may lose it.
func (s *Store) Detach(_ context.Context, id string) error {
	x, err := s.begin()
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	a := s.attachments[id]
	if a == nil {
		x.Discard()
		return block.Errorf(block.NotFound, "no attachment %.64s", id)
	}
	x.DeleteAttachment(id)
	if err := s.commit(x); err != nil {
		return err
	}
	s.fence(block.Errorf(block.Fenced, "attachment %s was detached", id), s.release(a)...)
	return nil
}

// Attachments returns the attachments of a target and of a worker; an empty
// string means all.
func (s *Store) Attachments(_ context.Context, target, worker string) ([]AttachmentInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	infos := []AttachmentInfo{}
	for _, a := range s.attachments {
		i := s.attachmentInfo(a)
		if a.v.rec.Import == "" && (target == "" || i.Target == target) && (worker == "" || i.Worker == worker) {
			infos = append(infos, i)
		}
	}
	sort.Slice(infos, func(i, j int) bool {
		if infos[i].Target != infos[j].Target {
			return infos[i].Target < infos[j].Target
		}
		return infos[i].ID < infos[j].ID
	})
	return infos, nil
}
