package check_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/check"
	"github.com/slackerd/slacker/volume"
)

// history is what each export ever held, by block.
type history map[string][]map[uint64]bool

func (h history) note(c content) {
	for name, tags := range c {
		for i, tag := range tags {
			if len(h[name]) == i {
				h[name] = append(h[name], map[uint64]bool{})
			}
			h[name][i][tag] = true
		}
	}
}

// catalogStore is a closed store whose journal has a checkpoint and a change of
// each kind after it.
func catalogStore(t testing.TB) (*fixture, history) {
	ctx := context.Background()
	fs := vfs.NewCrashableMem()
	b := &builder{t: t, s: must[*volume.Store](t)(volume.Open(options(fs))), c: content{}, ever: map[int][]uint64{}}
	h := history{}
	step := func(do func()) { do(); h.note(b.c) }
	create := func(name string) {
		must[volume.Info](t)(b.s.Create(ctx, name, volumeBlocks*block.Size))
		b.c[name] = make([]uint64, volumeBlocks)
	}
	step(func() { create("base") })
	step(func() { b.write("base", 0, 40) })
	step(func() { b.snapshot("base", "s0") })
	mustDo(t, b.s.Close())
	b.s = must[*volume.Store](t)(volume.Open(options(fs)))
	step(func() { b.write("base", 20, 40) })
	step(func() { create("own") })
	step(func() { b.write("own", 5, 30) })
	step(func() { b.snapshot("base", "s1") })
	step(func() { b.clone("base", "s1", "left") })
	step(func() { b.write("left", 30, 50) })
	step(func() { b.write("base", 0, 10) })
	mustDo(t, b.s.DeleteSnapshot(ctx, "base", "s0"))
	delete(b.c, "base@s0")
	b.collect()
	step(func() { b.trim("own", 6, 3) })
	mustDo(t, b.s.Close())
	return &fixture{fs: fs, content: b.c}, h
}

// damageJournal calls try with every kind of damage to the journal of a store:
// what it is, and how to do it to a copy of the store.
func damageJournal(t *testing.T, f *fixture, oneIn int, try func(what, way string, do func(*vfs.MemFS))) {
	if testing.Short() {
		oneIn *= 4
	}
	files := f.files(t, "store/catalog")
	if len(files) != 1 {
		t.Fatalf("the catalog has files %v, want one journal", files)
	}
	name := files[0]
	b := readFile(t, f.fs, name)
	r := rand.New(rand.NewPCG(*damageSeed, 77))
	write := func(fs *vfs.MemFS, b []byte) { writeFile(t, fs, name, slices.Clone(b)) } // it may wipe what it was given
	for _, way := range ways {
		at := places(r, len(b), 40)
		if way.name == "swap" { // of blocks, of which there are few; smaller pieces are swapped below
			at = at[:3]
		}
		for _, at := range at {
			if r.IntN(oneIn) == 0 {
				damaged := way.do(slices.Clone(b), at, r)
				try(fmt.Sprintf("%s at %d", way.name, at), way.name, func(fs *vfs.MemFS) { write(fs, damaged) })
			}
		}
	}
	for range max(1, 40/oneIn) {
		x, i, j := slices.Clone(b), r.IntN(len(b)-32), r.IntN(len(b)-32)
		copy(x[i:i+32], b[j:j+32])
		try(fmt.Sprintf("32 bytes from %d at %d", j, i), "misdirect", func(fs *vfs.MemFS) { write(fs, x) })
	}
	last := 0 // where the last frame begins
	for at := 0; at < len(b); at += 20 + int(binary.LittleEndian.Uint32(b[at:])) {
		last = at
	}
	try("the last frame cut off", "truncate", func(fs *vfs.MemFS) { write(fs, b[:last]) })
	try("append", "append", func(fs *vfs.MemFS) { write(fs, append(slices.Clone(b), 1, 2, 3)) })
	try("remove", "remove", func(fs *vfs.MemFS) { mustDo(t, fs.Remove(name)) })
}

// TestDamagedJournalIsMadeAnew: with the map there a damaged journal costs
// nothing; opening the store makes it anew.
func TestDamagedJournalIsMadeAnew(t *testing.T) {
	f, _ := catalogStore(t)
	damageJournal(t, f, 8, func(what, _ string, do func(*vfs.MemFS)) {
		fs := f.clone()
		do(fs)
		if got := f.outcome(t, fs); got != "harmless" {
			t.Errorf("%s: %s, want harmless", what, got)
		}
		mustDo(t, fs.RemoveAll("store/map"))
		r, err := volume.Salvage(context.Background(), options(fs), false, nil)
		if err != nil || len(r.Problems) > 0 || f.outcome(t, fs) != "harmless" {
			t.Errorf("%s: the journal was not made anew: %v, %v", what, r, err)
		}
	})
}

// TestDamagedJournalIsNamed: check and scrub of a running store name whatever
// happens to the journal.
func TestDamagedJournalIsNamed(t *testing.T) {
	f, _ := catalogStore(t)
	before := readFile(t, f.fs, f.files(t, "store/catalog")[0])
	ctx := context.Background()
	damageJournal(t, f, 4, func(what, _ string, do func(*vfs.MemFS)) {
		fs := f.clone()
		s := must[*volume.Store](t)(volume.Open(options(fs)))
		do(fs)
		names := func(damages []check.Damage) bool {
			return slices.ContainsFunc(damages, func(d check.Damage) bool { return d.Kind == check.Journal })
		}
		files := (&fixture{fs: fs}).files(t, "store/catalog")
		same := len(files) == 1 && string(readFile(t, fs, files[0])) == string(before)
		if got := names(must[[]check.Damage](t)(s.Check(ctx, false, nil))); got == same {
			t.Errorf("%s: check names it: %v, want %v", what, got, !same)
		}
		if got := names(must[check.Slice](t)(s.Scrub(ctx, 0, 1000, nil)).Damages); got == same {
			t.Errorf("%s: scrub names it: %v, want %v", what, got, !same)
		}
		if lost := f.verify(t, s); len(lost) > 0 {
			t.Errorf("%s: cannot be read: %v", what, lost)
		}
		mustDo(t, s.Close())
	})
}

// TestSalvageWithDamagedJournal: with the map lost and the journal damaged, what
// is rebuilt holds nothing that it never held, but for zeroes where the catalog is
// from before a collection, and what is missing is said. Of a journal that was cut
// short between two changes nobody can tell.
func TestSalvageWithDamagedJournal(t *testing.T) {
	f, h := catalogStore(t)
	ctx := context.Background()
	tally := map[string]int{}
	damageJournal(t, f, 2, func(what, way string, do func(*vfs.MemFS)) {
		fs := f.clone()
		do(fs)
		mustDo(t, fs.RemoveAll("store/map"))
		r, err := volume.Salvage(ctx, options(fs), false, nil)
		if err != nil {
			if block.KindOf(err) == block.Internal {
				t.Errorf("%s: an error without a kind: %v", what, err)
			}
			tally[way+": refused"]++
			return
		}
		s := must[*volume.Store](t)(volume.Open(options(fs)))
		whole := heldOnce(t, s, what, f.content, h, len(r.Problems) > 0 || way == "truncate")
		for _, d := range must[[]check.Damage](t)(s.Check(ctx, true, nil)) {
			t.Errorf("%s: %v", what, d)
		}
		mustDo(t, s.Close())
		if !whole && len(r.Problems) == 0 && way != "truncate" {
			t.Errorf("%s: something is missing, and the salvage says nothing", what)
		}
		tally[fmt.Sprintf("%s: whole %v, problems %v", way, whole, len(r.Problems) > 0)]++
	})
	t.Log(tally)
}

// heldOnce wants every export of a store to hold at each block what it held at
// some time, or, if that may be, zeroes; and says whether everything is there as it
// was at last.
func heldOnce(t *testing.T, s *volume.Store, what string, last content, h history, zeroes bool) (whole bool) {
	t.Helper()
	ctx := context.Background()
	whole = true
	got, want := make([]byte, block.Size), make([]byte, block.Size)
	for name, ever := range h {
		d, err := s.Open(ctx, name, "test", nil)
		if err != nil {
			whole = whole && last[name] == nil
			continue
		}
		for i := range ever {
			mustDo(t, d.ReadAt(ctx, got, uint64(i)*block.Size))
			found := false
			for tag := range ever[i] {
				clear(want)
				fill(want, tag)
				if string(got) == string(want) {
					found = true
					whole = whole && last[name] != nil && last[name][i] == tag
				}
			}
			clear(want)
			if whole = whole && found; !found && !(zeroes && string(got) == string(want)) {
				t.Errorf("%s: %s block %d holds what it never held", what, name, i)
			}
		}
		mustDo(t, d.Close())
	}
	return whole
}
