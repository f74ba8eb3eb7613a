package cow

import (
	"bytes"
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"go.uber.org/zap"
)

// framed makes a journal of a plan, with right checksums: of each frame a byte of
// flags, one by how much its number is more than that of the one before, one of
// its length, and so many bytes.
func framed(plan []byte) []byte {
	j := journal{fs: vfs.NewMem(), n: 1}
	var err error
	if j.file, err = j.fs.Create(journalName(1), vfs.WriteCategoryUnspecified); err != nil {
		panic(err)
	}
	seq := uint64(0)
	for len(plan) >= 3 {
		flags, n := uint32(plan[0]), min(int(plan[2]), len(plan)-3)
		seq += uint64(plan[1])
		if err := j.write(seq, flags, plan[3:3+n]); err != nil {
			panic(err)
		}
		plan = plan[3+n:]
	}
	return journalBytes(j.fs)
}

func journalBytes(fs vfs.FS) []byte {
	f, err := fs.Open(journalName(1))
	if err != nil {
		panic(err)
	}
	info, err := f.Stat()
	if err != nil {
		panic(err)
	}
	b := make([]byte, info.Size())
	if len(b) > 0 {
		if _, err := f.ReadAt(b, 0); err != nil {
			panic(err)
		}
	}
	return b
}

func readJournalBytes(b []byte) (*JournalState, error) {
	fs := vfs.NewMem()
	if err := fs.MkdirAll("j", 0o700); err != nil {
		panic(err)
	}
	f, err := fs.Create(fs.PathJoin("j", journalName(1)), vfs.WriteCategoryUnspecified)
	if err != nil {
		panic(err)
	}
	if _, err := f.Write(slices.Clone(b)); err != nil { // it may wipe what it was given
		panic(err)
	}
	if err := f.Close(); err != nil {
		panic(err)
	}
	return ReadJournal(fs, "j")
}

// planOf is a journal that is whole: a checkpoint, and changes after it.
func planOf() []byte {
	frame := func(flags, more byte, body []byte) []byte {
		return append([]byte{flags, more, byte(len(body))}, body...)
	}
	head := append(binary.LittleEndian.AppendUint32(nil, journalVersion), make([]byte, 16)...)
	return slices.Concat(
		frame(byte(frameBegin), 7, head),
		frame(byte(frameComplete), 0, appendSet(nil, idKey(keyVolume, 1), []byte(`{"name":"a"}`))),
		frame(0, 1, appendSet(appendDelete(nil, idKey(keyVolume, 1)), []byte{keyNextID}, []byte("12345678"))),
		frame(0, 1, appendSet(nil, snapshotKey(1, "s"), nil)),
	)
}

// FuzzJournal: no bytes do harm, whether their checksums are right or not; and what
// a journal tells is of the catalog, and ends before what is no part of it.
func FuzzJournal(f *testing.F) {
	f.Add(false, framed(planOf()))
	f.Add(true, planOf())
	f.Fuzz(func(t *testing.T, rightSums bool, b []byte) {
		if rightSums {
			b = framed(b)
		}
		s, err := readJournalBytes(b)
		if err != nil {
			if !block.Is(err, block.NotFound) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if s.end > int64(len(b)) || s.end < int64(len(b)) && s.Torn == "" {
			t.Fatalf("it ends at %d of %d bytes, and says %q", s.end, len(b), s.Torn)
		}
		for k := range s.Records {
			if k == "" || bytes.IndexByte(catalogKeys, k[0]) < 0 {
				t.Fatalf("a record %q, which is not of the catalog", k)
			}
		}
		again, err := readJournalBytes(b[:s.end])
		if err != nil || again.Torn != "" || again.Seq != s.Seq || !maps.EqualFunc(again.Records, s.Records, bytes.Equal) {
			t.Fatalf("without what follows its end it is another: %v", err)
		}
	})
}

// TestJournalPlan: what the fuzzer begins with is a whole journal, and any bit of
// it that is flipped is noticed.
func TestJournalPlan(t *testing.T) {
	b := framed(planOf())
	s, err := readJournalBytes(b)
	if err != nil || s.Torn != "" || s.Seq != 9 || len(s.Records) != 2 {
		t.Fatalf("%+v, %v", s, err)
	}
	for i := range 8 * len(b) {
		x := slices.Clone(b)
		x[i/8] ^= 1 << (i % 8)
		if s, err := readJournalBytes(x); err == nil && s.Torn == "" {
			t.Errorf("bit %d of byte %d: not noticed", i%8, i/8)
		}
	}
}

// TestJournalCutAtAFrame: a journal that lost its last frames is found to be damaged
// also when what is left tells the same, since the next frame would come behind a
// hole.
func TestJournalCutAtAFrame(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	db, err := Open(Options{FS: fs, Dir: "map", JournalDir: "catalog", CacheBytes: 1 << 20, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	c, err := db.LoadCatalog(ctx)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := NewTree(db, c, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		tree.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	layer := tree.Add(1, nil)
	put := func() {
		tx := db.Begin()
		tx.PutLayer(tree.Record(layer))
		if err := tx.Commit(false); err != nil {
			t.Fatal(err)
		}
	}
	put()
	whole := db.journal.end
	put() // once more, the same
	name, fault, err := tree.CheckJournal(ctx)
	if err != nil || fault != "" {
		t.Fatalf("a whole journal: %q, %v", fault, err)
	}
	b := make([]byte, whole)
	if f, err := fs.Open(name); err != nil {
		t.Fatal(err)
	} else if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if f, err := fs.Create(name, vfs.WriteCategoryUnspecified); err != nil {
		t.Fatal(err)
	} else if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, fault, err = tree.CheckJournal(ctx); err != nil || fault == "" {
		t.Errorf("the last of two equal frames is gone: fault %q, %v: want one", fault, err)
	}
}
