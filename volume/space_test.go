package volume

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/gc"
)

const spaceBlocks = 600

// spaceModel is what each target (VOLUME or VOLUME@SNAPSHOT) holds: the number
// of the write that each block is from, 0 for none.
type spaceModel map[string][]int

// want counts as Space should.
func (m spaceModel) want(target string) Space {
	type place struct{ write, index int }
	others := map[place]bool{}
	for name, blocks := range m {
		for i, w := range blocks {
			if name != target {
				others[place{w, i}] = true
			}
		}
	}
	var sp Space
	for i, w := range m[target] {
		if w == 0 {
			continue
		}
		sp.LogicalBytes += block.Size
		if others[place{w, i}] {
			sp.SharedBytes += block.Size
		} else {
			sp.ExclusiveBytes += block.Size
		}
	}
	sp.WouldFreeBytes = sp.ExclusiveBytes
	return sp
}

// TestSpaceOfRandomTrees deletes random trees of clones in any order, and wants
// each target's space to the byte after every step.
func TestSpaceOfRandomTrees(t *testing.T) {
	ctx := context.Background()
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 17))
		o := testOptions(t, vfs.NewMem())
		s := must[*Store](t)(Open(o))
		m, write := spaceModel{}, 0
		compare := func(what string) {
			for name := range m {
				if got, want := must[Space](t)(s.Space(ctx, name)), m.want(name); got != want {
					t.Errorf("seed %d, %s: %s: got %+v, want %+v", seed, what, name, got, want)
				}
			}
		}
		fill := func(name string) {
			d := openDevice(t, s, name)
			for range 3 {
				first, n := rng.IntN(spaceBlocks-80), 1+rng.IntN(80)
				write++
				w := write
				if rng.IntN(4) == 0 {
					w = 0
					mustDo(t, d.WriteZeroes(ctx, uint64(first)*block.Size, uint64(n)*block.Size, false, false))
				} else {
					mustDo(t, d.WriteAt(ctx, pattern(uint64(w), n*block.Size), uint64(first)*block.Size, false))
				}
				for i := first; i < first+n; i++ {
					m[name][i] = w
				}
			}
			mustDo(t, d.Close())
		}
		vols := []string{"a"}
		must[Info](t)(s.Create(ctx, "a", spaceBlocks*block.Size))
		m["a"] = make([]int, spaceBlocks)
		fill("a")
		for _, name := range []string{"b", "c", "d", "e"} {
			from := vols[rng.IntN(len(vols))]
			must[SnapshotInfo](t)(s.Snapshot(ctx, from, "s"+name))
			m[from+"@s"+name] = slices.Clone(m[from])
			must[Info](t)(s.Clone(ctx, from, "s"+name, name))
			m[name] = slices.Clone(m[from])
			vols = append(vols, name)
			fill(from)
			fill(name)
			compare("clone " + name)
		}
		for len(m) > 0 {
			var can []string // volumes without snapshots, and snapshots
			for name := range m {
				v, sn := splitTarget(name)
				free := true
				for other := range m {
					ov, osn := splitTarget(other)
					free = free && (sn != "" || ov != v || osn == "")
				}
				if free {
					can = append(can, name)
				}
			}
			slices.Sort(can)
			name := can[rng.IntN(len(can))]
			if v, sn := splitTarget(name); sn != "" {
				mustDo(t, s.DeleteSnapshot(ctx, v, sn))
			} else {
				must[[]string](t)(s.Delete(ctx, v, false))
			}
			delete(m, name)
			compare("delete " + name)
			if rng.IntN(2) == 0 {
				_, faults, err := gc.New(s, gc.Options{CleanBelow: 0.9}).Collect(ctx, false, nil)
				if err != nil || len(faults) > 0 {
					t.Fatalf("seed %d: collect: %v, %q", seed, err, faults)
				}
				compare("gc")
			}
			if rng.IntN(3) == 0 {
				mustDo(t, s.Close())
				s = must[*Store](t)(Open(o))
				compare("reopen")
			}
		}
		_, _, err := gc.New(s, gc.Options{CleanBelow: 0.9}).Collect(ctx, false, nil)
		mustDo(t, err)
		if n := s.Tree().LiveBlocks(); n != 0 {
			t.Errorf("seed %d: %d blocks live in an empty store", seed, n)
		}
		mustDo(t, s.Close())
	}
}

func splitTarget(name string) (v, sn string) {
	v, sn, _ = strings.Cut(name, "@")
	return v, sn
}
