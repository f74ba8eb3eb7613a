package snapshotter

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"go.etcd.io/bbolt"
)

// stored are the records as the file has them.
func (s *store) stored() (map[string]*record, error) {
	out := map[string]*record{}
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketSnapshots).ForEach(func(k, _ []byte) (err error) {
			out[string(k)], err = getRecord(tx, string(k))
			return err
		})
	})
	return out, err
}

// TestRecordsInMemory makes random transactions, of which some are refused: after
// each what is in memory is what the file has, and what was given is not what is kept.
func TestRecordsInMemory(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	path := filepath.Join(t.TempDir(), "db")
	s, err := openStore(path, "work/")
	must(t, err)
	defer func() { must(t, s.close()) }()
	name := func() string { return fmt.Sprint("n", rng.IntN(8)) }
	made := func(kind snapshots.Kind) *record {
		parent := ""
		if rng.IntN(2) == 0 {
			parent = name()
		}
		return &record{Kind: kind, Parent: parent, Labels: map[string]string{"l": name()}, Created: time.Now().UTC(), Volume: "work/" + name(), Pin: "work/" + name()}
	}
	refused := 0
	for i := range 200 {
		kind := snapshots.KindActive
		if rng.IntN(2) == 0 {
			kind = snapshots.KindCommitted
		}
		r := made(kind)
		var err error
		switch rng.IntN(6) {
		case 0, 1:
			err = s.add(name(), r)
		case 2:
			err = s.commit(name(), name(), r)
		case 3:
			err = s.remove(name(), func(r *record) []string { return []string{r.Volume} })
		case 4:
			err = s.change(name(), func(r *record) { r.Inodes++ })
		case 5:
			_, err = s.update(snapshots.Info{Name: name(), Labels: r.Labels}, nil)
		}
		if err != nil {
			refused++
		}
		r.Labels["l"], r.Volume = "changed", "changed"
		if rng.IntN(50) == 0 {
			must(t, s.close())
			s, err = openStore(path, "other/")
			must(t, err)
		}
		want, err := s.stored()
		must(t, err)
		if got := s.all(); !reflect.DeepEqual(got, want) {
			t.Fatalf("after %d transactions: in memory %v, in the file %v", i+1, got, want)
		}
	}
	if refused == 0 || refused == 200 {
		t.Errorf("%d of 200 transactions were refused, want some", refused)
	}
	if s.own != "work/" {
		t.Errorf("own volumes begin with %q, want what the store was made with", s.own)
	}
}
