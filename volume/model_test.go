package volume

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
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
	rng     *rand.Rand
	fs      *vfs.MemFS
	opts    func(vfs.FS) Options
	kills   bool // a crash is that of the process: nothing answered may be gone
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
	if err != nil {
		m.fatalf("%v", err)
	}
}

// modelFailure is what a model panics with. A panic and not a failure of the
// test, so that a run may be tried again with fewer steps.
type modelFailure string

func (m *model) fatalf(format string, args ...any) {
	panic(modelFailure(fmt.Sprintf("after %d operations, the last of them:\n  %s\n%s", len(m.history), joinLast(m.history, 25), fmt.Sprintf(format, args...))))
}

func get[T any](m *model) func(T, error) T {
	return func(v T, err error) T {
		m.must(err)
		return v
	}
}

func joinLast(h []string, n int) string {
	out := ""
	for _, l := range h[max(0, len(h)-n):] {
		out += l + "\n  "
	}
	return out
}

func (m *model) open() {
	s, err := Open(m.opts(m.fs))
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
	for _, name := range sorted(m.devs) {
		m.shut(name)
	}
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// pick returns the name of a volume, in a way that replays.
func (m *model) pick() (string, *modelVolume) {
	names := sorted(m.vols)
	n := names[m.rng.IntN(len(names))]
	return n, m.vols[n]
}

func (v *modelVolume) pickSnap(r *rand.Rand) (string, bool) {
	names := sorted(v.snaps)
	if len(names) == 0 {
		return "", false
	}
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

// contents reads all blocks.
func (m *model) contents(export string) []tag {
	d := m.dev(export)
	buf := make([]byte, d.Info().SizeBytes)
	m.must(d.ReadAt(context.Background(), buf, 0))
	tags := make([]tag, len(buf)/block.Size)
	for i := range tags {
		g, whole := tagOf(buf[i*block.Size : (i+1)*block.Size])
		if !whole {
			m.fatalf("%s block %d holds parts of %d", export, i, g)
		}
		tags[i] = g
	}
	return tags
}

func (m *model) compare(export string, n int, ok func(int, tag) bool) {
	tags := m.contents(export)
	if len(tags) != n {
		m.fatalf("%s has %d blocks, want %d", export, len(tags), n)
	}
	for i, g := range tags {
		if !ok(i, g) {
			m.fatalf("%s block %d holds %d, which is not what it may hold", export, i, g)
		}
	}
}

// verify compares everything with the model, and what the map says of itself.
func (m *model) verify() {
	for _, name := range sorted(m.vols) {
		v := m.vols[name]
		m.compare(name, len(v.cells), func(i int, g tag) bool { return g == v.cells[i].now })
		for _, sn := range sorted(v.snaps) {
			ts := v.snaps[sn]
			m.compare(name+"@"+sn, len(ts), func(i int, g tag) bool { return g == ts[i] })
		}
	}
	if n := len(get[[]Info](m)(m.s.List(context.Background(), ""))); n != len(m.vols) {
		m.fatalf("%d volumes, want %d", n, len(m.vols))
	}
	m.must(m.s.Flush(context.Background()))
	if err := m.s.tree.CheckCounts(context.Background()); err != nil {
		m.fatalf("%v", err)
	}
}

// exactSpace deletes everything, collects, and wants nothing to be left.
func (m *model) exactSpace() {
	for _, name := range sorted(m.vols) {
		m.deleteVolume(name, m.vols[name])
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
