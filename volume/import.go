package volume

import (
	"context"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
	"go.uber.org/zap"
)

// importWorker is the worker that the attachment of an import names.
const importWorker = "import"

// BeginImport makes a hidden volume to be filled, attached, which FinishImport
// turns into volume@snapshot. It goes away with AbortImport, or when nobody has
// been connected to it for a while.
func (s *Store) BeginImport(_ context.Context, volume, snapshot string, sizeBytes uint64) (string, AttachmentInfo, error) {
	target := volume + "@" + snapshot
	if _, _, err := block.SplitSnapshot(target); err != nil {
		return "", AttachmentInfo{}, err
	}
	if err := checkSize("import "+target, sizeBytes); err != nil {
		return "", AttachmentInfo{}, err
	}
	if err := s.mayGrow("import " + target); err != nil {
		return "", AttachmentInfo{}, err
	}
	x, err := s.begin()
	if err != nil {
		return "", AttachmentInfo{}, err
	}
	defer s.mu.Unlock()
	if err := s.importable(volume, snapshot); err != nil {
		x.Discard()
		return "", AttachmentInfo{}, err
	}
	id := newID()
	v, err := s.putVolume(x, nil, cow.VolumeRecord{Name: "import-" + id, SizeBytes: sizeBytes, Import: id, ImportTarget: target})
	if err != nil {
		return "", AttachmentInfo{}, err
	}
	a, err := s.putAttachment(s.db.Begin(), v, cow.AttachmentRecord{ID: newID(), Volume: v.id, Worker: importWorker, Created: s.o.Now()})
	if err != nil {
		return "", AttachmentInfo{}, err
	}
	return id, s.attachmentInfo(a), nil
}

func (s *Store) importable(volume, snapshot string) error {
	if v := s.byName[volume]; v != nil && v.snaps[snapshot] != nil {
		return block.Errorf(block.Exists, "import: snapshot %s@%s exists already", volume, snapshot)
	}
	return nil
}

func (s *Store) findImport(id string) (*vol, error) {
	v := s.imports[id]
	if v == nil {
		return nil, block.Errorf(block.NotFound, "no import %.64s: it was finished or aborted, or nobody was connected to it for %v", id, importIdle)
	}
	return v, nil
}

// FinishImport makes what was written the snapshot that the import was begun
// for, in one step. A volume of that name is made, as the snapshot is, when
// there is none; else it stays as it is and gains the snapshot.
func (s *Store) FinishImport(ctx context.Context, id string) (SnapshotInfo, error) {
	x, err := s.begin()
	if err != nil {
		return SnapshotInfo{}, err
	}
	defer s.mu.Unlock()
	staged, err := s.findImport(id)
	if err != nil {
		x.Discard()
		return SnapshotInfo{}, err
	}
	volume, snapshot, err := block.SplitSnapshot(staged.rec.ImportTarget)
	if err == nil {
		err = s.importable(volume, snapshot)
	}
	if err != nil {
		x.Discard()
		return SnapshotInfo{}, err
	}
	a := s.writer(staged) // nil when it was detached: then its writers are fenced already
	if a != nil {
		s.fence(block.Errorf(block.Fenced, "the import is finished"), s.release(a)...)
	}
	if err := s.log.Sync(ctx); err != nil {
		x.Discard()
		if a != nil {
			s.addAttachment(a.rec, staged)
		}
		return SnapshotInfo{}, err
	}
	return s.finish(x, staged, a, volume, snapshot)
}

// finish commits the transaction that turns a staged volume into a snapshot.
func (s *Store) finish(x *cow.Tx, staged *vol, a *attachment, volume, snapshot string) (SnapshotInfo, error) {
	sealed := staged.head.Load()
	r := cow.VolumeRecord{Name: volume, SizeBytes: staged.size.Load(), Created: s.o.Now(), Origin: volume + "@" + snapshot}
	v := s.byName[volume]
	var head *cow.Layer
	if v == nil {
		head = s.newHead(x, sealed)
		r.ID, r.Head = block.VolumeID(s.id(x)), head.ID
		x.PutVolume(&r)
	} else {
		r = v.rec
	}
	sn := &snap{layer: sealed, devices: map[*Device]struct{}{}, rec: cow.SnapshotRecord{Volume: r.ID, Name: snapshot,
		SizeBytes: staged.size.Load(), Created: s.o.Now(), Layer: sealed.ID}}
	x.PutSnapshot(&sn.rec)
	x.DeleteVolume(staged.id)
	if a != nil {
		x.DeleteAttachment(a.rec.ID)
	}
	if err := s.commit(x); err != nil {
		if head != nil {
			s.tree.Drop(head)
		}
		return SnapshotInfo{}, err
	}
	s.dropVolume(staged)
	if v == nil {
		v = s.addVolume(r, head)
	}
	v.snaps[snapshot] = sn
	return s.snapInfo(v, sn), nil
}

// AbortImport drops an import and what was written to it.
func (s *Store) AbortImport(_ context.Context, id string) error {
	x, err := s.begin()
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	v, err := s.findImport(id)
	if err != nil {
		x.Discard()
		return err
	}
	return s.abort(x, v)
}

func (s *Store) abort(x *cow.Tx, v *vol) error {
	x.DeleteVolume(v.id)
	a := s.writer(v)
	if a != nil {
		x.DeleteAttachment(a.rec.ID)
	}
	if err := s.commit(x); err != nil {
		return err
	}
	if a != nil {
		s.fence(block.Errorf(block.Fenced, "the import was aborted"), s.release(a)...)
	}
	s.tree.Name(v.head.Load(), -1)
	s.dropVolume(v)
	s.o.OnGarbage()
	return nil
}

// reapImports drops the imports that were abandoned.
func (s *Store) reapImports(ctx context.Context) {
	s.mu.Lock()
	var stale []string
	for id, v := range s.imports {
		if len(v.devices) == 0 && s.o.Now().Sub(v.idle) > importIdle {
			stale = append(stale, id)
		}
	}
	s.mu.Unlock()
	for _, id := range stale {
		s.o.Logger.Warn("dropping an import that nobody is connected to", zap.String("import", id), zap.Error(s.AbortImport(ctx, id)))
	}
}
