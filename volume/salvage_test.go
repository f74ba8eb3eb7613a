package volume

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
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
