package volume

import (
	"context"
	"sort"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
)

// Snapshot makes a snapshot of everything that was answered before the call;
// of writes in progress it holds all or nothing of each aligned block.
func (s *Store) Snapshot(ctx context.Context, volume, snapshot string) (SnapshotInfo, error) {
	if _, _, err := block.SplitSnapshot(volume + "@" + snapshot); err != nil {
		return SnapshotInfo{}, err
	}
	return s.sealing(ctx, "snapshot "+volume+"@"+snapshot, volume,
		func(v *vol) error {
			if v.snaps[snapshot] != nil {
				return block.Errorf(block.Exists, "snapshot %s@%s exists already", volume, snapshot)
			}
			return nil
		},
		func(x *cow.Tx, v *vol) (SnapshotInfo, error) { return s.seal(x, v, snapshot) })
}

// sealing calls seal with the volume's gate passed for writing and everything that
// was answered durable, if may does not refuse. seal ends the transaction.
func (s *Store) sealing(ctx context.Context, op, volume string, may func(*vol) error, seal func(*cow.Tx, *vol) (SnapshotInfo, error)) (SnapshotInfo, error) {
	if err := s.mayGrow(op); err != nil {
		return SnapshotInfo{}, err
	}
	// Most of what has to become durable does so before writers are held up.
	if err := s.log.Sync(ctx); err != nil {
		return SnapshotInfo{}, err
	}
	x, err := s.begin()
	if err != nil {
		return SnapshotInfo{}, err
	}
	defer s.mu.Unlock()
	v, err := s.findVolume(volume)
	if err == nil {
		err = may(v)
	}
	if err != nil {
		x.Discard()
		return SnapshotInfo{}, err
	}
	v.gate.Lock()
	defer v.gate.Unlock()
	if err := s.log.Sync(ctx); err != nil {
		x.Discard()
		return SnapshotInfo{}, err
	}
	return seal(x, v)
}

// seal commits the transaction with the volume's head as a snapshot and a new
// head on it.
func (s *Store) seal(x *cow.Tx, v *vol, snapshot string) (SnapshotInfo, error) {
	sealed := v.head.Load()
	head := s.newHead(x, sealed)
	sn := &snap{layer: sealed, devices: map[*Device]struct{}{}, rec: cow.SnapshotRecord{Volume: v.id, Name: snapshot,
		SizeBytes: v.size.Load(), Created: s.o.Now(), Layer: sealed.ID}}
	r := v.rec
	r.Head = head.ID
	x.PutSnapshot(&sn.rec)
	x.PutVolume(&r)
	if err := s.commit(x); err != nil {
		s.tree.Drop(head)
		return SnapshotInfo{}, err
	}
	v.rec = r
	v.head.Store(head) // the sealed layer's name passes from the volume to the snapshot
	v.snaps[snapshot] = sn
	return s.snapInfo(v, sn), nil
}

// Snapshots returns the snapshots of a volume, or of all when it is empty, by
// volume and age.
func (s *Store) Snapshots(_ context.Context, volume string) ([]SnapshotInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	vs := s.byName
	if volume != "" {
		v, err := s.findVolume(volume)
		if err != nil {
			return nil, err
		}
		vs = map[string]*vol{volume: v}
	}
	infos := []SnapshotInfo{}
	for _, v := range vs {
		for _, sn := range v.snaps {
			infos = append(infos, s.snapInfo(v, sn))
		}
	}
	sort.Slice(infos, func(i, j int) bool {
		a, b := &infos[i], &infos[j]
		if a.Volume != b.Volume {
			return a.Volume < b.Volume
		}
		if !a.Created.Equal(b.Created) {
			return a.Created.Before(b.Created)
		}
		return a.Name < b.Name
	})
	return infos, nil
}

// GetSnapshot describes one snapshot.
func (s *Store) GetSnapshot(_ context.Context, volume, snapshot string) (SnapshotInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, sn, err := s.find(volume + "@" + snapshot)
	if err != nil {
		return SnapshotInfo{}, err
	}
	return s.snapInfo(v, sn), nil
}

// DeleteSnapshot removes a snapshot at once; what only it held comes back in
// the background. Clones of it are not touched.
func (s *Store) DeleteSnapshot(_ context.Context, volume, snapshot string) error {
	x, err := s.begin()
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	target := volume + "@" + snapshot
	v, sn, err := s.find(target)
	if err == nil {
		err = s.unused("delete snapshot "+target, v, sn)
	}
	if err != nil {
		x.Discard()
		return err
	}
	x.DeleteSnapshot(v.id, snapshot)
	if err := s.commit(x); err != nil {
		return err
	}
	delete(v.snaps, snapshot)
	s.dropTraces(sn)
	s.tree.Name(sn.layer, -1)
	s.o.OnGarbage()
	return nil
}

// Rollback makes a volume what one of its snapshots is. What was written since
// is dropped; later snapshots stay. The volume must not be in use.
func (s *Store) Rollback(_ context.Context, volume, snapshot string) (Info, error) {
	x, err := s.begin()
	if err != nil {
		return Info{}, err
	}
	defer s.mu.Unlock()
	target := volume + "@" + snapshot
	v, sn, err := s.find(target)
	if err == nil {
		err = s.unused("roll back to "+target, v, nil)
	}
	if err != nil {
		x.Discard()
		return Info{}, err
	}
	v.gate.Lock()
	defer v.gate.Unlock()
	old := v.head.Load()
	head := s.newHead(x, sn.layer)
	r := v.rec
	r.Head, r.Origin, r.SizeBytes = head.ID, target, sn.rec.SizeBytes
	x.PutVolume(&r)
	left := s.leaveOrigin(x, v)
	if err := s.commit(x); err != nil {
		s.tree.Drop(head)
		return Info{}, err
	}
	left()
	v.rec = r
	v.head.Store(head)
	v.size.Store(r.SizeBytes)
	s.tree.Name(old, -1)
	s.o.OnGarbage()
	return s.info(v), nil
}

// Publish makes a snapshot of a volume, as Snapshot does, but as target, the
// one snapshot of a new volume: in one step it is there, complete, or not at
// all. The volume goes on as a clone of it.
func (s *Store) Publish(ctx context.Context, volume, target string) (SnapshotInfo, error) {
	newVolume, snapshot, err := block.SplitSnapshot(target)
	if err != nil {
		return SnapshotInfo{}, err
	}
	return s.sealing(ctx, "publish "+volume+" as "+target, volume,
		func(*vol) error { return s.checkFree(newVolume) },
		func(x *cow.Tx, v *vol) (SnapshotInfo, error) { return s.sealAs(x, v, newVolume, snapshot) })
}

// sealAs commits the transaction with the volume's head as the snapshot of a
// new volume, and new heads on it for both.
func (s *Store) sealAs(x *cow.Tx, v *vol, newVolume, snapshot string) (SnapshotInfo, error) {
	sealed, now, target := v.head.Load(), s.o.Now(), newVolume+"@"+snapshot
	head, newHead := s.newHead(x, sealed), s.newHead(x, sealed)
	r := v.rec
	r.Head, r.Origin = head.ID, target
	nr := cow.VolumeRecord{ID: block.VolumeID(s.id(x)), Name: newVolume, SizeBytes: v.size.Load(), Created: now, Origin: target, Head: newHead.ID}
	sn := &snap{layer: sealed, devices: map[*Device]struct{}{}, rec: cow.SnapshotRecord{Volume: nr.ID, Name: snapshot,
		SizeBytes: nr.SizeBytes, Created: now, Layer: sealed.ID}}
	x.PutVolume(&r)
	x.PutVolume(&nr)
	x.PutSnapshot(&sn.rec)
	left := s.leaveOrigin(x, v)
	if err := s.commit(x); err != nil {
		s.tree.Drop(newHead)
		s.tree.Drop(head)
		return SnapshotInfo{}, err
	}
	left()
	v.rec = r
	v.head.Store(head) // the sealed layer's name passes from the volume to the snapshot
	nv := s.addVolume(nr, newHead)
	nv.snaps[snapshot] = sn
	return s.snapInfo(nv, sn), nil
}
