package volume

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/gc"
)

var (
	modelSeed  = flag.Uint64("model.seed", 0, "run the model test with this seed only")
	modelRuns  = flag.Int("model.runs", 10, "how many seeds the model test runs")
	modelSteps = flag.Int("model.steps", 250, "how many operations a run of the model test has")
)

const modelBlocks = 700 // blocks of a volume at first: three pages

// tag is what a block holds: zero, or a number that its data is made from.
type tag uint64

func (g tag) fill(b []byte) {
	if g == 0 {
		clear(b)
		return
	}
	binary.LittleEndian.PutUint64(b, uint64(g))
	binary.LittleEndian.PutUint64(b[8:], uint64(g)*0x9E3779B97F4A7C15)
	for n := 16; n < len(b); n *= 2 {
		copy(b[n:], b[:n])
	}
}

func tagOf(b []byte) (tag, bool) {
	g := tag(binary.LittleEndian.Uint64(b))
	var want [block.Size]byte
	g.fill(want[:])
	return g, string(want[:]) == string(b)
}

// cell is one block of the model: what it holds, and what else a crash may
// leave there.
type cell struct {
	now   tag
	older []tag
}

type modelVolume struct {
	cells []cell
	snaps map[string][]tag
}

// model drives a store and keeps what must be in it.
type model struct {
	t       *testing.T
	rng     *rand.Rand
	fs      *vfs.MemFS
	s       *Store
	devs    map[string]*Device
	vols    map[string]*modelVolume
	nextTag tag
	names   int
	history []string
}

func (m *model) log(format string, args ...any) {
	m.history = append(m.history, fmt.Sprintf(format, args...))
}

func (m *model) must(err error) {
	m.t.Helper()
	if err != nil {
		m.fatalf("%v", err)
	}
}

func (m *model) fatalf(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("after %d operations, the last of them:\n  %s\n%s", len(m.history), joinLast(m.history, 25), fmt.Sprintf(format, args...))
}

func joinLast(h []string, n int) string {
	out := ""
	for _, l := range h[max(0, len(h)-n):] {
		out += l + "\n  "
	}
	return out
}

func (m *model) open() {
	s, err := Open(testOptions(m.t, m.fs))
	m.must(err)
	m.s, m.devs = s, map[string]*Device{}
}

func (m *model) dev(name string) *Device {
	if d := m.devs[name]; d != nil {
		return d
	}
	d, err := m.s.Open(context.Background(), name, "model", nil)
	m.must(err)
	m.devs[name] = d
	return d
}

func (m *model) shut(name string) {
	if d := m.devs[name]; d != nil {
		m.must(d.Close())
		delete(m.devs, name)
	}
}

func (m *model) shutAll() {
	for name := range m.devs {
		m.shut(name)
	}
}

// pick returns the name of a volume, in a way that replays.
func (m *model) pick() (string, *modelVolume) {
	names := make([]string, 0, len(m.vols))
	for n := range m.vols {
		names = append(names, n)
	}
	slices.Sort(names)
	n := names[m.rng.IntN(len(names))]
	return n, m.vols[n]
}

func (v *modelVolume) pickSnap(r *rand.Rand) (string, bool) {
	names := make([]string, 0, len(v.snaps))
	for n := range v.snaps {
		names = append(names, n)
	}
	if len(names) == 0 {
		return "", false
	}
	slices.Sort(names)
	return names[r.IntN(len(names))], true
}

func (m *model) newName(prefix string) string {
	m.names++
	return fmt.Sprintf("%s%d", prefix, m.names)
}

func (m *model) span(v *modelVolume) (first, n int) {
	n = 1 + m.rng.IntN(12)
	if m.rng.IntN(8) == 0 {
		n = 1 + m.rng.IntN(len(v.cells))
	}
	n = min(n, len(v.cells))
	return m.rng.IntN(len(v.cells) - n + 1), n
}

func (v *modelVolume) put(first, n int, g func() tag) {
	for i := first; i < first+n; i++ {
		c := &v.cells[i]
		c.older = append(c.older, c.now)
		c.now = g()
	}
}

func (v *modelVolume) settle(first, n int) {
	for i := first; i < first+n; i++ {
		v.cells[i].older = nil
	}
}

func (v *modelVolume) tags() []tag {
	ts := make([]tag, len(v.cells))
	for i := range ts {
		ts[i] = v.cells[i].now
	}
	return ts
}

func cellsOf(ts []tag) []cell {
	cs := make([]cell, len(ts))
	for i := range ts {
		cs[i].now = ts[i]
	}
	return cs
}

// step does one random operation.
func (m *model) step() {
	ctx := context.Background()
	if len(m.vols) == 0 {
		m.create()
		return
	}
	name, v := m.pick()
	switch k := m.rng.IntN(100); {
	case k < 40:
		m.write(name, v)
	case k < 48:
		first, n := m.span(v)
		m.log("zero %s %d+%d", name, first, n)
		m.must(m.dev(name).WriteZeroes(ctx, uint64(first)*block.Size, uint64(n)*block.Size, false, false))
		m.must(m.dev(name).Settle())
		v.put(first, n, func() tag { return 0 })
	case k < 54:
		m.log("flush %s", name)
		m.must(m.dev(name).Flush(ctx))
		v.settle(0, len(v.cells))
	case k < 62:
		m.snapshot(name, v)
	case k < 66:
		m.clone(name, v)
	case k < 68:
		m.publish(name, v)
	case k < 71:
		m.rollback(name, v)
	case k < 76:
		m.deleteSnapshot(name, v)
	case k < 80:
		m.deleteVolume(name, v)
	case k < 82:
		m.create()
	case k < 84:
		m.grow(name, v)
	case k < 88:
		m.collect()
	case k < 91:
		m.log("commit")
		m.must(m.s.Flush(ctx))
	case k < 94:
		m.reopen()
	default:
		m.crash()
	}
}

func (m *model) create() {
	name := m.newName("v")
	m.log("create %s", name)
	_, err := m.s.Create(context.Background(), name, modelBlocks*block.Size)
	m.must(err)
	m.vols[name] = &modelVolume{cells: make([]cell, modelBlocks), snaps: map[string][]tag{}}
}

func (m *model) write(name string, v *modelVolume) {
	first, n := m.span(v)
	fua := m.rng.IntN(6) == 0
	m.log("write %s %d+%d fua=%v tags from %d", name, first, n, fua, m.nextTag+1)
	buf := make([]byte, n*block.Size)
	at := 0
	v.put(first, n, func() tag {
		m.nextTag++
		g := m.nextTag
		if m.rng.IntN(10) == 0 {
			g = 0
		}
		g.fill(buf[at : at+block.Size])
		at += block.Size
		return g
	})
	m.must(m.dev(name).WriteAt(context.Background(), buf, uint64(first)*block.Size, fua))
	m.must(m.dev(name).Settle())
	if fua {
		v.settle(first, n)
	}
}

func (m *model) snapshot(name string, v *modelVolume) {
	sn := m.newName("s")
	m.log("snapshot %s@%s", name, sn)
	_, err := m.s.Snapshot(context.Background(), name, sn)
	m.must(err)
	v.settle(0, len(v.cells))
	v.snaps[sn] = v.tags()
}

func (m *model) publish(name string, v *modelVolume) {
	if len(m.vols) > 8 {
		return
	}
	n, sn := m.newName("p"), m.newName("s")
	m.log("publish %s %s@%s", name, n, sn)
	_, err := m.s.Publish(context.Background(), name, n+"@"+sn)
	m.must(err)
	v.settle(0, len(v.cells))
	m.vols[n] = &modelVolume{cells: cellsOf(v.tags()), snaps: map[string][]tag{sn: v.tags()}}
}

func (m *model) clone(name string, v *modelVolume) {
	sn, ok := v.pickSnap(m.rng)
	if !ok || len(m.vols) > 8 {
		return
	}
	c := m.newName("c")
	m.log("clone %s@%s %s", name, sn, c)
	_, err := m.s.Clone(context.Background(), name, sn, c)
	m.must(err)
	m.vols[c] = &modelVolume{cells: cellsOf(v.snaps[sn]), snaps: map[string][]tag{}}
}

func (m *model) rollback(name string, v *modelVolume) {
	sn, ok := v.pickSnap(m.rng)
	if !ok {
		return
	}
	m.log("rollback %s@%s", name, sn)
	m.shut(name)
	_, err := m.s.Rollback(context.Background(), name, sn)
	m.must(err)
	v.cells = cellsOf(v.snaps[sn])
}

func (m *model) deleteSnapshot(name string, v *modelVolume) {
	sn, ok := v.pickSnap(m.rng)
	if !ok {
		return
	}
	m.log("rm %s@%s", name, sn)
	m.shut(name + "@" + sn)
	m.must(m.s.DeleteSnapshot(context.Background(), name, sn))
	delete(v.snaps, sn)
}

func (m *model) deleteVolume(name string, v *modelVolume) {
	m.log("rm %s", name)
	m.shut(name)
	for sn := range v.snaps {
		m.shut(name + "@" + sn)
	}
	_, err := m.s.Delete(context.Background(), name, true)
	m.must(err)
	delete(m.vols, name)
}

func (m *model) grow(name string, v *modelVolume) {
	n := len(v.cells) + 1 + m.rng.IntN(300)
	if n > 4*modelBlocks {
		return
	}
	m.log("resize %s %d", name, n)
	m.shut(name)
	_, err := m.s.Resize(context.Background(), name, uint64(n)*block.Size)
	m.must(err)
	v.cells = append(v.cells, make([]cell, n-len(v.cells))...)
}

func (m *model) collect() {
	m.log("gc")
	_, faults, err := gc.New(m.s, gc.Options{CleanBelow: 0.9}).Collect(context.Background(), false, nil)
	m.must(err)
	if len(faults) > 0 {
		m.fatalf("gc passed over %q", faults)
	}
}

func (m *model) reopen() {
	m.log("reopen")
	m.shutAll()
	m.must(m.s.Close())
	m.open()
	m.settleAll()
}

func (m *model) settleAll() {
	for _, v := range m.vols {
		v.settle(0, len(v.cells))
	}
}

// crash cuts the power: of what was not synced, some or none or all is there.
func (m *model) crash() {
	percent := []int{0, 50, 100}[m.rng.IntN(3)]
	m.log("crash, %d %% of unsynced data kept", percent)
	clone := m.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(m.rng.Uint64(), 1))})
	m.shutAll()
	_ = m.s.Close() // it goes on on the file system that is thrown away
	m.fs = clone
	m.open()
	if percent == 100 { // what a killed process leaves: everything answered (V7)
		m.settleAll()
	}
	for name, v := range m.vols {
		m.adopt(name, v)
	}
}

// adopt checks that each block is one of those that a crash may leave, and
// takes it for the truth from now on.
func (m *model) adopt(name string, v *modelVolume) {
	m.compare(name, len(v.cells), func(i int, g tag) bool {
		c := &v.cells[i]
		if g != c.now && !slices.Contains(c.older, g) {
			return false
		}
		c.now, c.older = g, nil
		return true
	})
}

func (m *model) compare(export string, n int, ok func(int, tag) bool) {
	m.t.Helper()
	d := m.dev(export)
	if got := d.Info().SizeBytes; got != uint64(n)*block.Size {
		m.fatalf("%s has %d bytes, want %d blocks", export, got, n)
	}
	buf := make([]byte, n*block.Size)
	m.must(d.ReadAt(context.Background(), buf, 0))
	for i := range n {
		g, whole := tagOf(buf[i*block.Size : (i+1)*block.Size])
		if !whole || !ok(i, g) {
			m.fatalf("%s block %d holds %d (whole: %v), which is not what it may hold", export, i, g, whole)
		}
	}
}

// verify compares everything with the model, and what the map says of itself.
func (m *model) verify() {
	for name, v := range m.vols {
		m.compare(name, len(v.cells), func(i int, g tag) bool { return g == v.cells[i].now })
		for sn, ts := range v.snaps {
			m.compare(name+"@"+sn, len(ts), func(i int, g tag) bool { return g == ts[i] })
		}
	}
	if n := len(must[[]Info](m.t)(m.s.List(context.Background(), ""))); n != len(m.vols) {
		m.fatalf("%d volumes, want %d", n, len(m.vols))
	}
	m.must(m.s.Flush(context.Background()))
	if err := m.s.tree.CheckCounts(context.Background()); err != nil {
		m.fatalf("%v", err)
	}
}

// exactSpace deletes everything, collects, and wants nothing to be left.
func (m *model) exactSpace() {
	for name, v := range m.vols {
		m.deleteVolume(name, v)
	}
	m.collect()
	if live := m.s.tree.LiveBlocks(); live != 0 {
		m.fatalf("%d blocks live in an empty store", live)
	}
	for _, g := range m.s.log.Segments() {
		if !g.Active {
			m.fatalf("segment %d is left in an empty store", g.ID)
		}
	}
}

func runModel(t *testing.T, seed uint64, steps int) {
	m := &model{t: t, rng: rand.New(rand.NewPCG(seed, 7)), fs: vfs.NewCrashableMem(), vols: map[string]*modelVolume{}}
	t.Logf("replay with -run %s -model.seed %d", t.Name(), seed)
	m.open()
	for i := range steps {
		m.step()
		if i%20 == 19 {
			m.verify()
		}
	}
	m.verify()
	m.exactSpace()
	m.shutAll()
	m.must(m.s.Close())
}

// TestModel does random operations, crashes among them, against a model.
func TestModel(t *testing.T) {
	if *modelSeed != 0 {
		runModel(t, *modelSeed, *modelSteps)
		return
	}
	for seed := range uint64(*modelRuns) {
		t.Run(fmt.Sprint(seed+1), func(t *testing.T) { runModel(t, seed+1, *modelSteps) })
	}
}
