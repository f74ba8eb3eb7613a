package volume

import (
	"context"
	"math/rand/v2"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/gc"
)

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
	kind := cutKinds[m.rng.IntN(len(cutKinds))]
	if m.kills {
		kind = 100
	}
	m.log("crash, %v kept", kind)
	clone := powerCut(m.fs, kind, rand.New(rand.NewPCG(m.rng.Uint64(), 1)))
	m.shutAll()
	_ = m.s.Close() // it goes on on the file system that is thrown away
	m.fs = clone
	m.open()
	if kind == 100 { // what a killed process leaves: everything answered (V7)
		m.settleAll()
	}
	for _, name := range sorted(m.vols) {
		m.adopt(name, m.vols[name])
	}
}
