package cow

import (
	"encoding/binary"
	"encoding/json"

	"github.com/cockroachdb/pebble/v2"
	"github.com/slackerd/slacker/block"
)

// Tx gathers changes and commits them as one. It is not for concurrent use.
// Errors of building it show at Commit.
type Tx struct {
	d      *DB
	b      *pebble.Batch
	replay block.SegmentID // of the replay point, if it is set
	ops    []byte          // what it does to the catalog, for the journal
	err    error
}

// Begin starts a transaction. It ends with Commit or Discard.
func (d *DB) Begin() *Tx { return &Tx{d: d, b: d.pdb.NewBatch()} }

func (t *Tx) note(err error) {
	if t.err == nil && err != nil {
		t.err = block.Errorf(block.IO, "extent map: build a batch: %w", err)
	}
}

func (t *Tx) put(key []byte, record any) {
	v, err := json.Marshal(record)
	t.note(err)
	t.set(key, v)
}

// set and del change a record of the catalog.
func (t *Tx) set(key, value []byte) {
	t.note(t.b.Set(key, value, nil))
	t.ops = appendSet(t.ops, key, value)
}

func (t *Tx) del(key []byte) {
	t.note(t.b.Delete(key, nil))
	t.ops = appendDelete(t.ops, key)
}

// PutVolume writes a volume record.
func (t *Tx) PutVolume(r *VolumeRecord) { t.put(idKey(keyVolume, uint64(r.ID)), r) }

// DeleteVolume removes a volume record.
func (t *Tx) DeleteVolume(id block.VolumeID) { t.del(idKey(keyVolume, uint64(id))) }

// PutSnapshot writes a snapshot record.
func (t *Tx) PutSnapshot(r *SnapshotRecord) { t.put(snapshotKey(r.Volume, r.Name), r) }

// DeleteSnapshot removes a snapshot record.
func (t *Tx) DeleteSnapshot(v block.VolumeID, name string) {
	t.del(snapshotKey(v, name))
}

// PutLayer writes a layer record.
func (t *Tx) PutLayer(r *LayerRecord) { t.put(idKey(keyLayer, uint64(r.ID)), r) }

// DeleteLayer removes a layer record.
func (t *Tx) DeleteLayer(id block.LayerID) { t.del(idKey(keyLayer, uint64(id))) }

// PutAttachment writes an attachment record.
func (t *Tx) PutAttachment(r *AttachmentRecord) { t.put(attachmentKey(r.ID), r) }

// DeleteAttachment removes an attachment record.
func (t *Tx) DeleteAttachment(id string) { t.del(attachmentKey(id)) }

// SetNextID records the next id to give out.
func (t *Tx) SetNextID(id uint64) {
	t.set([]byte{keyNextID}, binary.LittleEndian.AppendUint64(nil, id))
}

// SetReplay records where replay starts. The batch must hold every change up
// to that point that no earlier batch holds (invariant M2).
func (t *Tx) SetReplay(p ReplayPoint) {
	t.replay = p.Segment
	v := binary.LittleEndian.AppendUint64(nil, uint64(p.Segment))
	v = binary.LittleEndian.AppendUint32(v, p.Block)
	v = binary.LittleEndian.AppendUint64(v, p.NextLSN)
	t.note(t.b.Set([]byte{keyReplay}, v, nil))
}

// PutScrub keeps what the scrubber wants to know after a restart.
func (t *Tx) PutScrub(state []byte) { t.note(t.b.Set([]byte{keyScrub}, state, nil)) }

// DeleteSegment forgets the counter of a segment that is gone.
func (t *Tx) DeleteSegment(id block.SegmentID) { t.note(t.b.Delete(segmentKey(id), nil)) }

// ForgetMapCount forgets the counter of a map that is gone.
func (t *Tx) ForgetMapCount(m MapID) { t.note(t.b.Delete(idKey(keyMapCount, uint64(m)), nil)) }

func (t *Tx) addCount(key []byte, n int64) {
	if n != 0 {
		t.note(t.b.Merge(key, encodeCount(n), nil))
	}
}

// setPage replaces the own entries of a page; nil removes them.
func (t *Tx) setPage(m MapID, n uint32, p *page) {
	key := pageKey(m, n)
	var v []byte
	if p != nil {
		v = encodePage(p, key)
	}
	if v == nil {
		t.note(t.b.Delete(key, nil))
		return
	}
	t.note(t.b.Set(key, v, nil))
}

// Len is the size of the transaction so far, in bytes.
func (t *Tx) Len() int { return t.b.Len() }

// Discard drops the transaction.
func (t *Tx) Discard() { _ = t.b.Close() }

// Commit applies the transaction atomically. With sync it, and every commit
// before it, survives a crash when Commit returns nil; without, it is applied
// and may be lost by a crash together with all that follow it.
func (t *Tx) Commit(sync bool) error {
	if t.err != nil {
		t.Discard()
		return t.err
	}
	opt := pebble.NoSync
	if sync {
		opt = pebble.Sync
	}
	if err := t.commit(opt); err != nil {
		return block.Errorf(block.IO, "extent map: commit: %w", err)
	}
	if t.replay != 0 {
		t.d.replay.Store(uint64(t.replay))
	}
	return t.b.Close()
}

// commit commits the batch, and tells the journal what it did to the catalog.
func (t *Tx) commit(opt *pebble.WriteOptions) error {
	j := t.d.journal
	if j == nil || len(t.ops) == 0 {
		return t.b.Commit(opt)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := t.b.Set([]byte{keyJournal}, binary.LittleEndian.AppendUint64(nil, j.seq+1), nil); err != nil {
		return err
	}
	if err := t.b.Commit(opt); err != nil {
		return err
	}
	j.note(j.seq+1, t.ops)
	return nil
}
