package snapshotter

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/naming"
)

const (
	storeFormat = "1"
	// lockTimeout bounds the wait for a store that another process has open.
	lockTimeout = 2 * time.Second
)

var (
	bucketMeta      = []byte("meta")
	bucketSnapshots = []byte("snapshots")
	bucketChildren  = []byte("children")
	bucketGarbage   = []byte("garbage")
	keyFormat       = []byte("format")
	keyOwn          = []byte("own")
)

// record is what the store has of one of containerd's snapshots.
type record struct {
	Kind    snapshots.Kind    `json:"kind"`
	Parent  string            `json:"parent,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created"`
	Updated time.Time         `json:"updated"`
	// Volume is the working volume of an active snapshot or view.
	Volume string `json:"volume,omitempty"`
	// Place is the server's snapshot of a committed one, VOLUME@SNAPSHOT.
	Place string `json:"place,omitempty"`
	// Pin is a clone of a chain that is here, so that nobody prunes it (N9).
	Pin string `json:"pin,omitempty"`
	// UsageBytes of a committed one (N8).
	UsageBytes int64 `json:"usage_bytes,omitempty"`
	// Inodes in use in the file system of a committed one, once they were asked for.
	Inodes int64 `json:"inodes,omitempty"`
}

func (r *record) inodes() int64 {
	if r == nil {
		return 0
	}
	return r.Inodes
}

func (r *record) info(name string) snapshots.Info {
	return snapshots.Info{Kind: r.Kind, Name: name, Parent: r.Parent, Labels: r.Labels, Created: r.Created, Updated: r.Updated}
}

// store is the local state. Its methods are transactions; those that write are synced.
type store struct {
	db *bbolt.DB
	// mu is held while anything is written. records are all that there are, decoded:
	// containerd walks over them for each layer of a pull.
	mu      sync.RWMutex
	records map[string]*record // which never change
	// own is what the names of this store's volumes begin with, and no others do.
	// It stays as it was when the store was made, whatever becomes of the host's name.
	own string
}

// openStore opens a store, or makes one whose own volumes have names that begin
// with own.
func openStore(path, own string) (*store, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, block.Errorf(block.Busy, "%s is open in another process: one snapshotter has a root of its own", path)
	}
	if err != nil {
		return nil, block.Errorf(block.KindOfFile(err), "open the snapshot store %s: %w", path, err)
	}
	s := &store{db: db, records: map[string]*record{}}
	if err := s.write(func(tx *writing) error { return s.init(tx, own) }); err != nil {
		_ = db.Close()
		return nil, block.Wrap(block.IO, err, "open the snapshot store "+path)
	}
	return s, nil
}

func (s *store) init(tx *writing, own string) error {
	for _, name := range [][]byte{bucketMeta, bucketSnapshots, bucketChildren, bucketGarbage} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	meta := tx.Bucket(bucketMeta)
	if format := string(meta.Get(keyFormat)); format != "" && format != storeFormat {
		return block.Errorf(block.Unsupported, "it has format %q, want %q", format, storeFormat)
	}
	if s.own = string(meta.Get(keyOwn)); s.own == "" {
		s.own = own
	}
	err := tx.Bucket(bucketSnapshots).ForEach(func(k, _ []byte) (err error) {
		tx.changed[string(k)], err = getRecord(tx.Tx, string(k))
		return err
	})
	return errors.Join(err, meta.Put(keyFormat, []byte(storeFormat)), meta.Put(keyOwn, []byte(s.own)))
}

// writing is a transaction that writes.
type writing struct {
	*bbolt.Tx
	changed map[string]*record // by it; nil for those that go
}

// write makes a transaction.
func (s *store) write(fn func(tx *writing) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := map[string]*record{}
	if err := s.db.Update(func(tx *bbolt.Tx) error { return fn(&writing{tx, changed}) }); err != nil {
		return err
	}
	for name, r := range changed {
		if s.records[name] = r; r == nil {
			delete(s.records, name)
		}
	}
	return nil
}

func (s *store) close() error { return s.db.Close() }

func childKey(parent, child string) []byte { return []byte(parent + "\x00" + child) }

func getRecord(tx *bbolt.Tx, name string) (*record, error) {
	if name == "" {
		return nil, block.Errorf(block.Invalid, "the name of a snapshot is empty")
	}
	b := tx.Bucket(bucketSnapshots).Get([]byte(name))
	if b == nil {
		return nil, block.Errorf(block.NotFound, "snapshot %s does not exist", name)
	}
	r := &record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, block.Errorf(block.Corrupt, "record of snapshot %s: %w", name, err)
	}
	return r, nil
}

func putRecord(tx *writing, name string, r *record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	err = errors.Join(tx.Bucket(bucketSnapshots).Put([]byte(name), b), tx.Bucket(bucketChildren).Put(childKey(r.Parent, name), nil))
	if err == nil {
		tx.changed[name], err = getRecord(tx.Tx, name) // apart from r, which is the caller's
	}
	return err
}

func dropRecord(tx *writing, name string, r *record) error {
	tx.changed[name] = nil
	return errors.Join(tx.Bucket(bucketSnapshots).Delete([]byte(name)), tx.Bucket(bucketChildren).Delete(childKey(r.Parent, name)))
}

// children calls fn for each child of parent, until it returns false.
func children(tx *bbolt.Tx, parent string, fn func(name string) bool) {
	prefix := childKey(parent, "")
	c := tx.Bucket(bucketChildren).Cursor()
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		if !fn(string(k[len(prefix):])) {
			return
		}
	}
}

// get returns a record, NotFound if there is none.
func (s *store) get(name string) (r *record, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		r, err = getRecord(tx, name)
		return err
	})
	return r, err
}

// absent refuses a name that is taken.
func absent(tx *bbolt.Tx, name string) error {
	_, err := getRecord(tx, name)
	if err == nil {
		return block.Errorf(block.Exists, "snapshot %s exists already", name)
	}
	if block.Is(err, block.NotFound) {
		return nil
	}
	return err
}

// parentOf returns the record of a parent, which has to be committed; nil for none.
func parentOf(tx *bbolt.Tx, parent string) (*record, error) {
	if parent == "" {
		return nil, nil
	}
	r, err := getRecord(tx, parent)
	if err != nil {
		return nil, block.Wrap(block.NotFound, err, "parent")
	}
	if r.Kind != snapshots.KindCommitted {
		return nil, block.Errorf(block.Invalid, "parent %s is not a committed snapshot", parent)
	}
	return r, nil
}

// free returns the record of the parent if name can be made on it.
func (s *store) free(name, parent string) (p *record, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		if err := absent(tx, name); err != nil {
			return err
		}
		p, err = parentOf(tx, parent)
		return err
	})
	return p, err
}

// add writes a new record; its working volume is garbage no more.
func (s *store) add(name string, r *record) error {
	return s.write(func(tx *writing) error {
		if err := absent(tx.Tx, name); err != nil {
			return err
		}
		if _, err := parentOf(tx.Tx, r.Parent); err != nil {
			return err
		}
		if r.Volume != "" {
			if err := tx.Bucket(bucketGarbage).Delete([]byte(r.Volume)); err != nil {
				return err
			}
		}
		return putRecord(tx, name, r)
	})
}

// commit makes the active snapshot key the committed one name; its working
// volume becomes garbage (N4).
func (s *store) commit(key, name string, r *record) error {
	return s.write(func(tx *writing) error {
		if err := absent(tx.Tx, name); err != nil {
			return err
		}
		active, err := getRecord(tx.Tx, key)
		if err != nil {
			return err
		}
		return errors.Join(dropRecord(tx, key, active), tx.Bucket(bucketGarbage).Put([]byte(active.Volume), nil), putRecord(tx, name, r))
	})
}

// remove drops a record without children. garbage says which volumes nobody
// needs after that.
func (s *store) remove(name string, garbage func(*record) []string) error {
	return s.write(func(tx *writing) error {
		r, err := getRecord(tx.Tx, name)
		if err != nil {
			return err
		}
		child := ""
		children(tx.Tx, name, func(c string) bool { child = c; return false })
		if child != "" {
			return block.Errorf(block.Busy, "cannot remove snapshot %s: %s is made on it", name, child)
		}
		for _, volume := range garbage(r) {
			if err := tx.Bucket(bucketGarbage).Put([]byte(volume), nil); err != nil {
				return err
			}
		}
		return dropRecord(tx, name, r)
	})
}

// change changes a record in place.
func (s *store) change(name string, how func(*record)) error {
	return s.write(func(tx *writing) error {
		r, err := getRecord(tx.Tx, name)
		if err != nil {
			return err
		}
		how(r)
		return putRecord(tx, name, r)
	})
}

// update changes the labels of a record: all of them, or those that fieldpaths
// name.
func (s *store) update(info snapshots.Info, fieldpaths []string) (out snapshots.Info, err error) {
	err = s.write(func(tx *writing) error {
		r, err := getRecord(tx.Tx, info.Name)
		if err != nil {
			return err
		}
		if err := setLabels(r, info.Labels, fieldpaths); err != nil {
			return block.Wrap(block.Invalid, err, "update snapshot "+info.Name)
		}
		r.Updated = time.Now().UTC()
		out = r.info(info.Name)
		return putRecord(tx, info.Name, r)
	})
	return out, err
}

func setLabels(r *record, labels map[string]string, fieldpaths []string) error {
	if len(fieldpaths) == 0 || slices.Contains(fieldpaths, "labels") {
		r.Labels = map[string]string{}
		for k, v := range labels {
			r.Labels[k] = v
		}
	}
	for _, path := range fieldpaths {
		label, ok := strings.CutPrefix(path, "labels.")
		switch {
		case path == "labels":
		case !ok:
			return block.Errorf(block.Invalid, "field %q cannot be changed: want labels or labels.NAME", path)
		case labels[label] == "":
			delete(r.Labels, label)
		default:
			if r.Labels == nil {
				r.Labels = map[string]string{}
			}
			r.Labels[label] = labels[label]
		}
	}
	return nil
}

// all returns every record, by name. They are not to be changed.
func (s *store) all() map[string]*record {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return maps.Clone(s.records)
}

// childWithRef returns the name of a committed child of parent that bears the
// label of that chain, or "".
func (s *store) childWithRef(parent, chain string) (name string, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		var rerr error
		children(tx, parent, func(child string) bool {
			var r *record
			if r, rerr = getRecord(tx, child); rerr == nil && r.Kind == snapshots.KindCommitted && r.Labels[snapshots.LabelSnapshotRef] == chain {
				name = child
			}
			return name == "" && rerr == nil
		})
		return rerr
	})
	return name, err
}

// addGarbage writes down volumes that nobody needs.
func (s *store) addGarbage(volumes ...string) error {
	return s.write(func(tx *writing) error {
		for _, v := range volumes {
			if err := tx.Bucket(bucketGarbage).Put([]byte(v), nil); err != nil {
				return err
			}
		}
		return nil
	})
}

// condemn makes those volumes garbage that no record names and that are not in
// flight, all looked at in the transaction.
func (s *store) condemn(volumes []string, inFlight func(string) bool) error {
	return s.write(func(tx *writing) error {
		var free []string
		for _, v := range volumes {
			if !inFlight(v) {
				free = append(free, v)
			}
		}
		var err error
		needed := s.neededVolumes()
		for _, v := range free {
			if !needed[v] {
				err = errors.Join(err, tx.Bucket(bucketGarbage).Put([]byte(v), nil))
			}
		}
		return err
	})
}

// condemned reports whether a volume is garbage, and no record names it.
func (s *store) condemned(volume string) (yes bool, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	err = s.db.View(func(tx *bbolt.Tx) error {
		k, _ := tx.Bucket(bucketGarbage).Cursor().Seek([]byte(volume))
		yes = string(k) == volume && !s.neededVolumes()[volume]
		return nil
	})
	return yes, err
}

// neededVolumes are those that records name. With s.mu held.
func (s *store) neededVolumes() map[string]bool {
	needed := map[string]bool{}
	for _, r := range s.records {
		needed[r.Volume], needed[naming.VolumeOf(r.Place)], needed[r.Pin] = true, true, true
	}
	return needed
}

func (s *store) garbage() (volumes []string, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketGarbage).ForEach(func(k, _ []byte) error {
			volumes = append(volumes, string(k))
			return nil
		})
	})
	return volumes, err
}

func (s *store) forgetGarbage(volume string) error {
	return s.write(func(tx *writing) error { return tx.Bucket(bucketGarbage).Delete([]byte(volume)) })
}
