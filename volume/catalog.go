package volume

import (
	"context"
	"sort"
	"strings"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
)

// find returns the volume, or the volume and the snapshot, of a target. Called
// with s.mu held.
func (s *Store) find(target string) (*vol, *snap, error) {
	name, snapName, isSnap := strings.Cut(target, "@")
	if isSnap {
		if _, _, err := block.SplitSnapshot(target); err != nil {
			return nil, nil, err
		}
	} else if err := block.CheckVolumeName(name); err != nil {
		return nil, nil, err
	}
	v := s.byName[name]
	if v == nil {
		return nil, nil, block.Errorf(block.NotFound, "no volume %s", name)
	}
	if !isSnap {
		return v, nil, nil
	}
	sn := v.snaps[snapName]
	if sn == nil {
		return nil, nil, block.Errorf(block.NotFound, "volume %s has no snapshot %s", name, snapName)
	}
	return v, sn, nil
}

// begin starts a transaction of the catalog, with s.mu held; end follows.
func (s *Store) begin() (*cow.Tx, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, block.Errorf(block.Unavailable, "the store is closing")
	}
	if err := s.Fault(); err != nil {
		s.mu.Unlock()
		return nil, err
	}
	return s.db.Begin(), nil
}

// commit makes the transaction durable, as one (V2). A failure fences the store: what a
// restart will find is not known.
func (s *Store) commit(x *cow.Tx) error {
	if err := x.Commit(true); err != nil {
		s.fail(err)
		return err
	}
	return nil
}

func (s *Store) id(x *cow.Tx) uint64 {
	id := s.nextID
	s.nextID++
	x.SetNextID(s.nextID)
	return id
}

// newHead makes a layer on parent for a volume, in the transaction.
func (s *Store) newHead(x *cow.Tx, parent *cow.Layer) *cow.Layer {
	l := s.tree.Add(block.LayerID(s.id(x)), parent)
	x.PutLayer(s.tree.Record(l))
	return l
}

func checkSize(op string, sizeBytes uint64) error {
	if sizeBytes == 0 || sizeBytes%block.Size != 0 || sizeBytes > block.MaxVolumeBytes {
		return block.Errorf(block.Invalid, "%s: size %d bytes: want a multiple of %d from %d to %d", op, sizeBytes, block.Size, block.Size, uint64(block.MaxVolumeBytes))
	}
	return nil
}

func (s *Store) checkFree(name string) error {
	if err := block.CheckVolumeName(name); err != nil {
		return err
	}
	if s.byName[name] != nil {
		return block.Errorf(block.Exists, "volume %s exists already", name)
	}
	return nil
}

// Create makes an empty volume.
func (s *Store) Create(_ context.Context, name string, sizeBytes uint64) (Info, error) {
	if err := checkSize("create volume "+name, sizeBytes); err != nil {
		return Info{}, err
	}
	if err := s.mayGrow("create volume " + name); err != nil {
		return Info{}, err
	}
	return s.create(name, nil, cow.VolumeRecord{Name: name, SizeBytes: sizeBytes})
}

// create makes a volume with a new head on parent.
func (s *Store) create(name string, parent func() (*cow.Layer, *cow.VolumeRecord, error), r cow.VolumeRecord) (Info, error) {
	x, err := s.begin()
	if err != nil {
		return Info{}, err
	}
	defer s.mu.Unlock()
	if err := s.checkFree(name); err != nil {
		x.Discard()
		return Info{}, err
	}
	var base *cow.Layer
	if parent != nil {
		from, rec, err := parent()
		if err != nil {
			x.Discard()
			return Info{}, err
		}
		base, r = from, *rec
	}
	v, err := s.putVolume(x, base, r)
	if err != nil {
		return Info{}, err
	}
	return s.info(v), nil
}

// putVolume commits the transaction with a new volume on base.
func (s *Store) putVolume(x *cow.Tx, base *cow.Layer, r cow.VolumeRecord) (*vol, error) {
	head := s.newHead(x, base)
	r.ID, r.Head, r.Created = block.VolumeID(s.id(x)), head.ID, s.o.Now()
	x.PutVolume(&r)
	if err := s.commit(x); err != nil {
		s.tree.Drop(head)
		return nil, err
	}
	return s.addVolume(r, head), nil
}

// Clone makes a volume that starts as a snapshot.
func (s *Store) Clone(_ context.Context, volume, snapshot, newVolume string) (Info, error) {
	if err := s.mayGrow("clone " + volume + "@" + snapshot); err != nil {
		return Info{}, err
	}
	return s.create(newVolume, func() (*cow.Layer, *cow.VolumeRecord, error) {
		origin := volume + "@" + snapshot
		_, sn, err := s.find(origin)
		if err != nil {
			return nil, nil, err
		}
		return sn.layer, &cow.VolumeRecord{Name: newVolume, SizeBytes: sn.rec.SizeBytes, Origin: origin}, nil
	}, cow.VolumeRecord{})
}

// info describes a volume, with s.mu held.
func (s *Store) info(v *vol) Info {
	head := v.head.Load()
	i := Info{ID: v.id, Name: v.rec.Name, SizeBytes: v.size.Load(), Created: v.rec.Created, Origin: v.rec.Origin,
		Snapshots: len(v.snaps), Head: head.ID, HeadBytes: s.tree.DataBlocks(head) * block.Size}
	if a := s.writer(v); a != nil {
		ai := s.attachmentInfo(a)
		i.Attachment = &ai
	}
	return i
}

func (s *Store) snapInfo(v *vol, sn *snap) SnapshotInfo {
	return SnapshotInfo{Volume: v.rec.Name, Name: sn.rec.Name, SizeBytes: sn.rec.SizeBytes, Created: sn.rec.Created,
		Layer: sn.layer.ID, LayerBytes: s.tree.DataBlocks(sn.layer) * block.Size, LastUsed: sn.rec.LastUsed}
}

// List returns the volumes whose names begin with prefix, by name.
func (s *Store) List(_ context.Context, prefix string) ([]Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	infos := []Info{}
	for name, v := range s.byName {
		if strings.HasPrefix(name, prefix) {
			infos = append(infos, s.info(v))
		}
	}
	sort.Slice(infos, func(i, j int) bool { return infos[i].Name < infos[j].Name })
	return infos, nil
}

// Get describes one volume.
func (s *Store) Get(_ context.Context, name string) (Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.findVolume(name)
	if err != nil {
		return Info{}, err
	}
	return s.info(v), nil
}

func (s *Store) findVolume(name string) (*vol, error) {
	if err := block.CheckVolumeName(name); err != nil {
		return nil, err
	}
	v, _, err := s.find(name)
	return v, err
}

// Resize grows a volume. Connections that are open keep the old size.
func (s *Store) Resize(_ context.Context, name string, sizeBytes uint64) (Info, error) {
	if err := checkSize("resize volume "+name, sizeBytes); err != nil {
		return Info{}, err
	}
	return s.alter(name, func(v *vol, r *cow.VolumeRecord) error {
		if sizeBytes < r.SizeBytes {
			return block.Errorf(block.Invalid, "resize volume %s: it has %d bytes and cannot shrink to %d: data could be lost", name, r.SizeBytes, sizeBytes)
		}
		r.SizeBytes = sizeBytes
		return nil
	})
}

// Rename gives a volume another name. Its snapshots and attachments stay its own.
func (s *Store) Rename(_ context.Context, name, newName string) (Info, error) {
	return s.alter(name, func(_ *vol, r *cow.VolumeRecord) error {
		if newName == name {
			return nil
		}
		if err := s.checkFree(newName); err != nil {
			return err
		}
		r.Name = newName
		return nil
	})
}

// alter changes a volume's record.
func (s *Store) alter(name string, change func(*vol, *cow.VolumeRecord) error) (Info, error) {
	x, err := s.begin()
	if err != nil {
		return Info{}, err
	}
	defer s.mu.Unlock()
	v, err := s.findVolume(name)
	r := cow.VolumeRecord{}
	if err == nil {
		r = v.rec
		err = change(v, &r)
	}
	if err != nil {
		x.Discard()
		return Info{}, err
	}
	x.PutVolume(&r)
	if err := s.commit(x); err != nil {
		return Info{}, err
	}
	delete(s.byName, v.rec.Name)
	v.rec = r
	s.byName[r.Name] = v
	v.size.Store(r.SizeBytes)
	return s.info(v), nil
}

// Delete removes a volume, and with withSnapshots its snapshots, at once; the
// space comes back in the background. Clones are not touched. It returns what
// was deleted.
func (s *Store) Delete(_ context.Context, name string, withSnapshots bool) ([]string, error) {
	return s.delete(name, func(v *vol) error { return s.deletable(v, withSnapshots) })
}

// delete removes a volume with its snapshots if it may.
func (s *Store) delete(name string, may func(*vol) error) ([]string, error) {
	x, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	v, err := s.findVolume(name)
	if err == nil {
		err = may(v)
	}
	if err != nil {
		x.Discard()
		return nil, err
	}
	left := s.leaveOrigin(x, v)
	deleted := s.targets(v)
	layers := []*cow.Layer{v.head.Load()}
	for _, sn := range v.snaps {
		layers = append(layers, sn.layer)
		x.DeleteSnapshot(v.id, sn.rec.Name)
	}
	x.DeleteVolume(v.id)
	if err := s.commit(x); err != nil {
		return nil, err
	}
	for _, l := range layers {
		s.tree.Name(l, -1)
	}
	left()
	for _, sn := range v.snaps {
		s.dropTraces(sn)
	}
	s.dropVolume(v)
	s.o.OnGarbage()
	return deleted, nil
}

// targets lists a volume and its snapshots.
func (s *Store) targets(v *vol) []string {
	ts := []string{v.rec.Name}
	for name := range v.snaps {
		ts = append(ts, v.rec.Name+"@"+name)
	}
	sort.Strings(ts[1:])
	return ts
}

// deletable refuses to delete a volume that is in use or has snapshots which
// were not named.
func (s *Store) deletable(v *vol, withSnapshots bool) error {
	op := "delete volume " + v.rec.Name
	if len(v.snaps) > 0 && !withSnapshots {
		return block.Errorf(block.Busy, "%s: it has %d snapshots (%s): delete them first, or with it", op, len(v.snaps), strings.Join(s.targets(v)[1:], ", "))
	}
	if err := s.unused(op, v, nil); err != nil {
		return err
	}
	for _, sn := range v.snaps {
		if err := s.unused(op, v, sn); err != nil {
			return err
		}
	}
	return nil
}

// unused refuses what is attached or open; a nil snapshot means the volume itself.
func (s *Store) unused(op string, v *vol, sn *snap) error {
	name, snapName, open := v.rec.Name, "", len(v.devices)
	if sn != nil {
		snapName, open = sn.rec.Name, len(sn.devices)
		name += "@" + snapName
	}
	for a := range v.holders {
		if a.rec.Snapshot == snapName {
			return block.Errorf(block.Busy, "%s: %s is attached by %s (attachment %s)", op, name, a.rec.Worker, a.rec.ID)
		}
	}
	if open > 0 {
		return block.Errorf(block.Busy, "%s: %s has %d open connections", op, name, open)
	}
	return nil
}

// Status describes the store.
func (s *Store) Status(context.Context) (Status, error) {
	disk, err := s.o.FS.GetDiskUsage(s.o.Dir)
	if err != nil {
		return Status{}, block.Errorf(block.IO, "status: free space of %s: %w", s.o.Dir, err)
	}
	live := s.tree.LiveBlocks() * block.Size
	taken := uint64(s.log.DiskBytes())
	var reclaimable int64
	for _, g := range s.log.Segments() {
		if !g.Active { // the active one is allocated ahead
			reclaimable += max(0, g.Bytes-s.tree.Live(g.ID)*block.Size)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{FormatVersion: s.db.Format(), Volumes: len(s.byName), Attachments: len(s.attachments),
		Connections: int(s.conns.Load()), DataBytes: live, SegmentBytes: taken, ReclaimableBytes: uint64(reclaimable),
		CapacityBytes: disk.TotalBytes, FreeBytes: disk.AvailBytes, ReserveBytes: uint64(s.o.ReserveBytes), Short: s.log.Short(), Fault: s.Fault(), MapCache: s.tree.CacheUse(), Reads: ReadUse{Memory: s.readsMemory.Load(), Disk: s.readsDisk.Load()}}
	for _, v := range s.byName {
		st.Snapshots += len(v.snaps)
	}
	return st, nil
}
