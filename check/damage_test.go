package check_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/check"
	"github.com/slackerd/slacker/volume"
)

var (
	damageCases = flag.Int("damage.cases", 6, "how many random places of each file to damage, in each way")
	damageFull  = flag.Bool("damage.full", false, "damage all these places; else one in ten, one in 50 with -short")
	damageSeed  = flag.Uint64("damage.seed", 1, "which places to damage")
)

func readFile(t testing.TB, fs vfs.FS, name string) []byte {
	t.Helper()
	f := must[vfs.File](t)(fs.Open(name))
	b := must[[]byte](t)(io.ReadAll(f))
	mustDo(t, f.Close())
	return b
}

func writeFile(t testing.TB, fs vfs.FS, name string, b []byte) {
	t.Helper()
	f := must[vfs.File](t)(fs.Create(name, vfs.WriteCategoryUnspecified))
	_, err := f.Write(b)
	mustDo(t, err)
	mustDo(t, f.Sync())
	mustDo(t, f.Close())
}

func (f *fixture) files(t testing.TB, dir string) (names []string) {
	t.Helper()
	for _, n := range must[[]string](t)(f.fs.List(dir)) {
		names = append(names, f.fs.PathJoin(dir, n))
	}
	slices.Sort(names)
	return names
}

// outcome opens a damaged store, reads everything, and checks it. It returns
// one line: that it did not open, or what was lost and what was found.
func (f *fixture) outcome(t *testing.T, fs vfs.FS) string {
	ctx := context.Background()
	s, err := volume.Open(options(fs))
	if err != nil {
		if k := block.KindOf(err); k == block.Internal {
			t.Errorf("open: an error without a kind: %v", err)
		}
		return "refused"
	}
	defer func() { _ = s.Close() }() // may fail: it is damaged
	lost := f.verify(t, s)
	damages, err := s.Check(ctx, true, nil)
	if err != nil {
		return "check stopped"
	}
	for name := range lost {
		if !slices.ContainsFunc(damages, func(d check.Damage) bool { return slices.Contains(d.Affected, name) }) {
			t.Errorf("%s cannot be read at blocks %v, and check names it nowhere: %v", name, lost[name], damages)
		}
	}
	if len(lost) > 0 {
		f.scrubbed(t, s, lost)
	}
	switch {
	case len(lost) > 0:
		return "lost and found"
	case len(damages) > 0:
		return "found"
	}
	return "harmless"
}

// scrubbed wants a scrub, in slices, to name what cannot be read too.
func (f *fixture) scrubbed(t *testing.T, s *volume.Store, lost map[string][]int) {
	t.Helper()
	named := map[string]bool{}
	for after := block.SegmentID(0); ; {
		part, err := s.Scrub(context.Background(), after, 150, nil)
		if err != nil {
			t.Errorf("scrub after segment %d: %v", after, err)
			return
		}
		for _, d := range part.Damages {
			for _, name := range d.Affected {
				named[name] = true
			}
		}
		if after = part.Next; after == 0 {
			break
		}
	}
	for name := range lost {
		if !named[name] {
			t.Errorf("%s cannot be read at blocks %v, and the scrub names it nowhere", name, lost[name])
		}
	}
}

// places are offsets of a file: where formats keep their headers, and others.
func places(r *rand.Rand, size, n int) []int {
	var at []int
	for _, off := range []int{0, 9, 40, 56, 64, 100, 4092, 4096, 4096 + 48, 4096 + 72, 4096 + 110, 8192, size - 60, size - 30, size - 8, size - 1} {
		if off >= 0 && off < size {
			at = append(at, off)
		}
	}
	for range min(n, size) {
		at = append(at, r.IntN(size))
	}
	return at
}

// ways to damage a file. Each returns the damaged content.
var ways = []struct {
	name string
	do   func(b []byte, at int, r *rand.Rand) []byte
}{
	{"flip", func(b []byte, at int, r *rand.Rand) []byte { b[at] ^= byte(1 << r.IntN(8)); return b }},
	{"zero", func(b []byte, at int, _ *rand.Rand) []byte {
		at -= at % block.Size
		clear(b[at:min(len(b), at+block.Size)])
		return b
	}},
	{"truncate", func(b []byte, at int, _ *rand.Rand) []byte { return b[:at] }},
	{"swap", func(b []byte, at int, r *rand.Rand) []byte {
		if len(b) < 2*block.Size {
			return b[:len(b)/2]
		}
		n := len(b) / block.Size
		i, j := min(n-1, at/block.Size), r.IntN(n)
		x := slices.Clone(b[i*block.Size : (i+1)*block.Size])
		copy(b[i*block.Size:], b[j*block.Size:(j+1)*block.Size])
		copy(b[j*block.Size:], x)
		return b
	}},
}

// used cuts the zeros off that a file was allocated with.
func used(b []byte) int {
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	return n
}

// TestDamageAnywhere damages every file of a store in many places: opening it
// never panics, reading gives the right data or an error, and check names
// everything that cannot be read.
func TestDamageAnywhere(t *testing.T) {
	t.Run("closed", func(t *testing.T) { damageAll(t, build(t, false)) })
	t.Run("cut", func(t *testing.T) { damageAll(t, build(t, true)) })
}

func damageAll(t *testing.T, f *fixture) {
	oneIn := 10
	if testing.Short() {
		oneIn = 50
	}
	files := slices.Concat(f.files(t, "store/map"), f.files(t, "store/segments"))
	for _, name := range files {
		t.Run(strings.TrimPrefix(name, "store/"), func(t *testing.T) {
			t.Parallel()
			b := readFile(t, f.fs, name)
			r := rand.New(rand.NewPCG(*damageSeed, uint64(len(name))))
			tally := map[string]int{}
			try := func(what string, damage func(*vfs.MemFS)) {
				fs := f.clone()
				damage(fs)
				got := f.outcome(t, fs)
				tally[strings.Fields(what)[0]+": "+got]++
				if t.Failed() {
					t.Fatalf("%s of %d bytes: %s (replay with -damage.seed %d)", what, len(b), got, *damageSeed)
				}
			}
			for _, way := range ways {
				for _, at := range places(r, used(b), *damageCases) {
					if !*damageFull && r.IntN(oneIn) > 0 {
						continue
					}
					try(fmt.Sprintf("%s at %d", way.name, at), func(fs *vfs.MemFS) { writeFile(t, fs, name, way.do(slices.Clone(b), at, r)) })
				}
			}
			try("remove", func(fs *vfs.MemFS) { mustDo(t, fs.Remove(name)) })
			t.Log(tally)
		})
	}
}

// TestSalvageOfAnyDamage damages the segments of a store that has lost its map: a
// salvage makes one that opens and takes writes. What it reported no problem with
// reads right or not at all; else a block may hold what was written to it before, and
// never what was written elsewhere.
func TestSalvageOfAnyDamage(t *testing.T) {
	for _, cut := range []bool{false, true} {
		f := build(t, cut)
		for _, name := range f.files(t, "store/segments") {
			t.Run(fmt.Sprintf("%s,cut=%v", f.fs.PathBase(name), cut), func(t *testing.T) {
				t.Parallel()
				b := readFile(t, f.fs, name)
				r := rand.New(rand.NewPCG(*damageSeed, uint64(len(name))))
				problems := 0
				for _, way := range ways {
					for _, at := range places(r, used(b), *damageCases) {
						if !*damageFull && r.IntN(10) > 0 {
							continue
						}
						fs := f.clone()
						writeFile(t, fs, name, way.do(slices.Clone(b), at, r))
						if problems += f.salvaged(t, fs); t.Failed() {
							t.Fatalf("%s at %d of %d bytes (replay with -damage.seed %d)", way.name, at, len(b), *damageSeed)
						}
					}
				}
				t.Logf("%d problems reported", problems)
			})
		}
	}
}

// salvaged salvages a store without its map and returns how many problems that reports.
func (f *fixture) salvaged(t *testing.T, fs *vfs.MemFS) int {
	t.Helper()
	ctx := context.Background()
	mustDo(t, fs.RemoveAll("store/map"))
	report, err := volume.Salvage(ctx, options(fs), false, nil)
	if err != nil {
		t.Errorf("salvage: %v", err)
		return 0
	}
	for round := range 2 {
		s, err := volume.Open(options(fs))
		if err != nil {
			t.Errorf("open of what was salvaged, %q, for time %d: %v", report.Problems, round+1, err)
			return 0
		}
		switch {
		case round > 0:
		case len(report.Problems) == 0:
			f.verifyThat(t, s, f.orOlder(f.before))
		default:
			f.verifyThat(t, s, func(_ string, i int, is func(tag uint64) bool) bool {
				return is(0) || slices.ContainsFunc(f.ever[i], is)
			})
		}
		d := must[*volume.Device](t)(s.Open(ctx, "own", "test", nil))
		want, got := make([]byte, block.Size), make([]byte, block.Size)
		fill(want, 1<<40)
		at := uint64(volumeBlocks-1) * block.Size
		if round == 0 {
			mustDo(t, d.WriteAt(ctx, want, at, true))
		}
		mustDo(t, d.ReadAt(ctx, got, at))
		if string(got) != string(want) {
			t.Errorf("what was written after the salvage is not there, in round %d", round+1)
		}
		mustDo(t, d.Close())
		mustDo(t, s.Close())
	}
	return len(report.Problems)
}

// TestMisdirected puts each segment in the place of each other.
func TestMisdirected(t *testing.T) {
	f := build(t, false)
	segments := f.files(t, "store/segments")
	for _, from := range segments {
		for _, to := range segments {
			if from != to {
				fs := f.clone()
				writeFile(t, fs, to, readFile(t, fs, from))
				if what := f.outcome(t, fs); what == "harmless" {
					t.Errorf("%s in place of %s: not noticed", from, to)
				}
			}
		}
	}
}

// TestDamageIsNamed damages one live block of each export and wants check to
// say exactly who sees it.
func TestDamageIsNamed(t *testing.T) {
	ctx := context.Background()
	f := build(t, false)
	for _, c := range []struct {
		of       string
		index    int
		affected []string
	}{
		{"base@s1", 70, []string{"base", "base@s1", "right", "right@r1"}}, // hidden in left; base wrote up to 60
		{"base@s1", 20, []string{"base@s1", "right", "right@r1"}},
		{"base@s1", 200, []string{"base", "base@s1", "left", "right", "right@r1"}},
		{"left", 60, []string{"left"}},
		{"own", 450, []string{"own"}},
		{"own", 10, []string{"own"}},
	} {
		t.Run(fmt.Sprint(c.of, c.index), func(t *testing.T) {
			want := make([]byte, block.Size)
			fill(want, f.content[c.of][c.index])
			fs := f.clone()
			n := 0
			for _, name := range f.files(t, "store/segments") {
				b := readFile(t, fs, name)
				for at := 0; at+block.Size <= len(b); at += block.Size {
					if string(b[at:at+block.Size]) == string(want) {
						b[at+77] ^= 4
						n++
					}
				}
				writeFile(t, fs, name, b)
			}
			if n == 0 {
				t.Fatal("the block is in no segment")
			}
			damages := must[[]check.Damage](t)(volume.CheckDir(ctx, options(fs), true, nil))
			if len(damages) != 1 || damages[0].Kind != check.Data || !slices.Equal(damages[0].Affected, c.affected) ||
				!strings.HasSuffix(damages[0].Object, fmt.Sprintf("block %d", c.index)) {
				t.Errorf("found %v, want block %d and %v", damages, c.index, c.affected)
			}
			if damages := must[[]check.Damage](t)(volume.CheckDir(ctx, options(fs), false, nil)); len(damages) > 0 {
				t.Errorf("without reading data: %v", damages)
			}
		})
	}
}
