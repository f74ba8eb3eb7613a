package cow

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
)

// openJournal goes on with the journal that there is, if it has the last commit of
// the catalog and nothing after it; else it makes a new one.
func (d *DB) openJournal(fs vfs.FS, dir string, log *zap.Logger) error {
	v, err := d.get([]byte{keyJournal})
	if err != nil {
		return err
	}
	j := &journal{fs: fs, dir: dir, storeID: d.storeID, log: log, stale: true}
	if len(v) == 8 {
		j.seq = binary.LittleEndian.Uint64(v)
	}
	d.journal = j
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		log.Warn("the journal of the catalog is not kept", zap.Error(err))
		return nil
	}
	ns, err := journalFiles(fs, dir)
	if err == nil && len(ns) > 0 {
		j.n = ns[0]
		s, rerr := ReadJournal(fs, dir)
		if rerr == nil && s.File == fs.PathJoin(dir, journalName(ns[0])) && s.StoreID == d.storeID && s.Seq == j.seq && s.Torn == "" && len(v) == 8 && d.Format() == FormatVersion {
			j.file, err = fs.OpenReadWrite(s.File, vfs.WriteCategoryUnspecified)
			j.end, j.base, j.stale = s.end, s.end, err != nil
		}
	}
	if err := d.SyncJournal(); err != nil {
		log.Warn("the journal of the catalog is not made yet", zap.Error(err))
	}
	return nil
}

// SyncJournal makes the journal durable, and makes it anew where it is behind or
// has grown too long.
func (d *DB) SyncJournal() error {
	j := d.journal
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.stale || j.end > 2*j.base+journalSlack {
		return d.checkpoint()
	}
	if !j.dirty {
		return nil
	}
	if err := j.file.SyncData(); err != nil {
		j.stale = true
		return block.Errorf(block.IO, "sync the journal of the catalog: %w", err)
	}
	j.dirty = false
	return nil
}

// checkpoint begins a new journal file with the whole catalog and removes the older
// ones. Called with the journal's lock held, so no commit of the catalog is under way.
func (d *DB) checkpoint() (err error) {
	j := d.journal
	old := j.file
	j.stale = true
	name := ""
	defer func() {
		if err != nil {
			if j.file != nil && j.file != old {
				_ = j.file.Close()
				_ = j.fs.Remove(name)
			}
			j.file, err = old, block.Errorf(block.IO, "make a journal of the catalog in %s: %w", j.dir, err)
		}
	}()
	j.n++
	name = j.fs.PathJoin(j.dir, journalName(j.n))
	if j.file, err = j.fs.Create(name, vfs.WriteCategoryUnspecified); err != nil {
		j.file = old
		return err
	}
	j.end = 0
	if err = d.writeCatalog(); err != nil {
		return err
	}
	if err = errors.Join(j.file.Sync(), syncJournalDir(j.fs, j.dir)); err != nil {
		return err
	}
	// From now on older programs, which write no journal, must not open the store.
	if err = d.raiseFormat(); err != nil {
		return err
	}
	j.base, j.dirty, j.stale = j.end, false, false
	if old != nil {
		_ = old.Close() // nothing in it is needed
	}
	return j.removeOlder()
}

// writeCatalog writes a checkpoint.
func (d *DB) writeCatalog() error {
	j := d.journal
	head := binary.LittleEndian.AppendUint32(nil, journalVersion)
	if err := j.write(j.seq, frameBegin, append(head, j.storeID[:]...)); err != nil {
		return err
	}
	var ops []byte
	for _, prefix := range catalogKeys {
		err := d.scan(context.Background(), []byte{prefix}, func(k, v []byte) error {
			if ops = appendSet(ops, k, v); len(ops) < checkpointFrame {
				return nil
			}
			err := j.write(j.seq, 0, ops)
			ops = ops[:0]
			return err
		})
		if err != nil {
			return err
		}
	}
	return j.write(j.seq, frameComplete, ops)
}

func (d *DB) raiseFormat() error {
	b := d.pdb.NewBatch()
	defer func() { _ = b.Close() }()
	v := append(binary.LittleEndian.AppendUint32(nil, FormatVersion), d.storeID[:]...)
	if d.Format() != FormatVersion {
		if err := b.Set([]byte{keyFormat}, v, nil); err != nil {
			return err
		}
	}
	if err := b.Set([]byte{keyJournal}, binary.LittleEndian.AppendUint64(nil, d.journal.seq), nil); err != nil {
		return err
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return err
	}
	d.format.Store(FormatVersion)
	return nil
}

func (j *journal) removeOlder() error {
	ns, err := journalFiles(j.fs, j.dir)
	for _, n := range ns {
		if n < j.n {
			err = errors.Join(err, j.fs.Remove(j.fs.PathJoin(j.dir, journalName(n))))
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		j.log.Warn("an old journal of the catalog stays", zap.Error(err))
	}
	return nil
}

func syncJournalDir(fs vfs.FS, dir string) error {
	var errs []error
	for _, dir := range []string{dir, fs.PathDir(dir)} {
		f, err := fs.OpenDir(dir)
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// closeJournal makes the journal durable and closes it.
func (d *DB) closeJournal() error {
	j := d.journal
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	var err error
	if j.dirty && !j.stale {
		err = j.file.SyncData()
	}
	err = errors.Join(err, j.file.Close())
	j.file = nil
	if err != nil {
		j.log.Warn("the journal of the catalog may be behind; it is made anew when the store is opened", zap.Error(err))
	}
	return nil
}

// CheckJournal compares the journal with the catalog, and returns what differs; ""
// when nothing does, or when the store keeps none.
func (t *Tree) CheckJournal(ctx context.Context) (file, fault string, err error) {
	j := t.db.journal
	if j == nil {
		return "", "", nil
	}
	j.mu.Lock()
	view := t.db.snapshot()
	stale := j.stale
	var s *JournalState
	var rerr error
	if !stale {
		s, rerr = readJournalFile(j.fs, j.dir, j.n)
	}
	end := j.end
	j.mu.Unlock()
	defer func() { err = errors.Join(err, view.view.Close()) }()
	name := j.fs.PathJoin(j.dir, journalName(j.n))
	switch {
	case stale:
		return name, "", nil // it is made anew soon
	case rerr != nil:
		return name, rerr.Error(), nil
	case s.Torn != "":
		return name, "it is damaged at " + s.Torn, nil
	case s.end != end:
		return name, fmt.Sprintf("it ends at byte %d, want %d", s.end, end), nil
	}
	want := map[string][]byte{}
	for _, prefix := range catalogKeys {
		if err := view.scan(ctx, []byte{prefix}, func(k, v []byte) error { want[string(k)] = append([]byte{}, v...); return nil }); err != nil {
			return name, "", err
		}
	}
	if !maps.EqualFunc(want, s.Records, func(a, b []byte) bool { return string(a) == string(b) }) {
		return name, "what it tells of the catalog is not what the map has", nil
	}
	return name, "", nil
}
