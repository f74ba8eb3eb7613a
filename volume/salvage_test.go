package volume

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/segment"
)

// TestSalvage does random operations, loses the map, and salvages it: everything
// is there as the model has it, by name and by block (V9).
func TestSalvage(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed+1), func(t *testing.T) {
			m := &model{fs: vfs.NewCrashableMem(), vols: map[string]*modelVolume{}, opts: func(fs vfs.FS) Options { return testOptions(t, fs) }}
			err := m.try(func() {
				m.open()
				for i := range 240 {
					m.rng = rand.New(rand.NewPCG(seed+1, uint64(i)))
					m.step()
					if i%80 == 79 {
						m.loseMap(t)
					}
				}
			})
			if err == nil {
				err = m.finish()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// loseMap closes the store, removes its map, and salvages it.
func (m *model) loseMap(t *testing.T) {
	ctx := context.Background()
	m.shutAll()
	m.must(m.s.Close())
	o := m.s.o
	_, err := Salvage(ctx, o, false, nil)
	wantKind(t, err, block.Exists)
	m.must(m.fs.RemoveAll("store/map"))
	_, err = Open(o)
	wantKind(t, err, block.NotFound) // it is not taken for a new one
	dry := must[*SalvageReport](t)(Salvage(ctx, o, true, nil))
	got := must[*SalvageReport](t)(Salvage(ctx, o, false, nil))
	if fmt.Sprint(*dry) != fmt.Sprint(*got) || got.Volumes < len(m.vols) || len(got.Problems) > 0 {
		t.Errorf("the salvage found %+v, without writing %+v; there are %d volumes", *got, *dry, len(m.vols))
	}
	m.open()
	m.verify()
	for _, d := range must[[]any](t)((&disk{s: m.s}).damages()) {
		t.Error(d)
	}
}

// TestSalvageWithoutCatalog: with the journal lost too, what each layer holds is
// there, as volumes by the number of the layer.
func TestSalvageWithoutCatalog(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := must[*Store](t)(Open(testOptions(t, fs)))
	must[Info](t)(s.Create(ctx, "v", 100*block.Size))
	d := must[*Device](t)(s.Open(ctx, "v", "test", nil))
	want := pattern(1, 20*block.Size)
	mustDo(t, d.WriteAt(ctx, want, 5*block.Size, true))
	mustDo(t, d.Close())
	mustDo(t, s.Close())
	mustDo(t, fs.RemoveAll("store/map"))
	mustDo(t, fs.RemoveAll("store/catalog"))
	r := must[*SalvageReport](t)(Salvage(ctx, s.o, false, nil))
	if r.Journal != "" || r.Volumes != 1 || r.Blocks != 20 || len(r.Problems) != 1 {
		t.Errorf("the salvage found %+v", *r)
	}
	s = mustOpen(t, testOptions(t, fs))
	infos := must[[]Info](t)(s.List(ctx, ""))
	if len(infos) != 1 || !strings.HasPrefix(infos[0].Name, "salvaged/layer-") {
		t.Fatalf("volumes %+v", infos)
	}
	got := make([]byte, len(want))
	mustDo(t, openDevice(t, s, infos[0].Name).ReadAt(ctx, got, 5*block.Size))
	if string(got) != string(want) {
		t.Error("it holds something else")
	}
	must[Info](t)(s.Create(ctx, "new", block.Size))
	for _, x := range must[[]any](t)((&disk{s: s}).damages()) {
		t.Error(x)
	}
}

// TestDamagedTail damages the part of the log that is replayed at the start. Payload
// costs the block it is of. A header keeps the store closed, since what it said is
// not known; a salvage gives what can be read, and the store works on (V9).
func TestDamagedTail(t *testing.T) {
	const writes, hit = 12, 5
	ctx := context.Background()
	mem := vfs.NewCrashableMem()
	s := mustOpen(t, testOptions(t, mem))
	must[Info](t)(s.Create(ctx, "v", 100*block.Size))
	d := must[*Device](t)(s.Open(ctx, "v", "test", nil))
	var header segment.Pos // of one of the writes
	for i := range writes {
		if i == hit {
			header, _ = s.log.DurablePos()
		}
		mustDo(t, d.WriteAt(ctx, pattern(uint64(i)+1, block.Size), uint64(i)*block.Size, true))
	}
	damaged := func(at uint32) (Options, error) {
		fs := mem.CrashClone(vfs.CrashCloneCfg{})
		data := must[[]byte](t)(fs.UnsafeGetFileDataBuffer("store/segments/" + segment.FileName(header.Segment)))
		data[int(at)*block.Size+100] ^= 1
		o := testOptions(t, fs)
		s, err := Open(o)
		if err == nil {
			mustDo(t, s.Close())
		}
		return o, err
	}
	holds := func(s *Store, first, end int) {
		t.Helper()
		d := openDevice(t, s, "v")
		b := make([]byte, block.Size)
		for i := first; i < end; i++ {
			mustDo(t, d.ReadAt(ctx, b, uint64(i)*block.Size))
			if !bytes.Equal(b, pattern(uint64(i)+1, block.Size)) {
				t.Errorf("block %d is another", i)
			}
		}
		mustDo(t, d.Close())
	}

	o, err := damaged(header.Block + 1)
	mustDo(t, err)
	s2 := mustOpen(t, o)
	holds(s2, 0, hit)
	holds(s2, hit+1, writes)
	wantKind(t, openDevice(t, s2, "v").ReadAt(ctx, make([]byte, block.Size), hit*block.Size), block.Corrupt)
	if found := must[[]any](t)((&disk{s: s2}).damages()); len(found) != 1 {
		t.Errorf("check finds %v: want one damage", found)
	}

	o, err = damaged(header.Block)
	wantKind(t, err, block.Corrupt)
	mustDo(t, o.FS.RemoveAll("store/map"))
	r := must[*SalvageReport](t)(Salvage(ctx, o, false, nil))
	if r.Volumes != 1 || r.Blocks != hit || len(r.Problems) != 2 {
		t.Errorf("the salvage found %+v", *r)
	}
	for round := range 2 { // the second after a start
		s3 := must[*Store](t)(Open(o))
		if round == 0 {
			d := openDevice(t, s3, "v")
			for i := hit; i < writes; i++ {
				mustDo(t, d.WriteAt(ctx, pattern(uint64(i)+1, block.Size), uint64(i)*block.Size, true))
			}
			mustDo(t, d.Close())
		} else {
			holds(s3, 0, writes)
		}
		mustDo(t, s3.Close())
	}
}
