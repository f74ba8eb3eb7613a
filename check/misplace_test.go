package check_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/check"
	"github.com/slackerd/slacker/volume"
)

// place is a block of a segment file.
type place struct {
	file  string
	block int
}

func (p place) of(fs map[string][]byte) []byte {
	b := fs[p.file]
	return b[min(len(b), p.block*block.Size):min(len(b), (p.block+1)*block.Size)]
}

func (f *fixture) segments(t testing.TB) map[string][]byte {
	t.Helper()
	return segmentsOf(t, f.fs)
}

func segmentsOf(t testing.TB, fs *vfs.MemFS) map[string][]byte {
	t.Helper()
	m := map[string][]byte{}
	for _, name := range (&fixture{fs: fs}).files(t, "store/segments") {
		if strings.HasSuffix(name, ".seg") {
			m[name] = readFile(t, fs, name)
		}
	}
	return m
}

// live finds where the blocks of the exports are. Each must be in one place.
func (f *fixture) live(t testing.TB) map[uint64]place {
	t.Helper()
	tags, want := map[string]uint64{}, make([]byte, block.Size)
	for _, of := range f.content {
		for _, tag := range of {
			if tag != 0 {
				fill(want, tag)
				tags[string(want)] = tag
			}
		}
	}
	found := map[uint64]place{}
	for name, b := range f.segments(t) {
		for i := 0; (i+1)*block.Size <= len(b); i++ {
			if tag, is := tags[string(b[i*block.Size:(i+1)*block.Size])]; is {
				if other, twice := found[tag]; twice {
					t.Fatalf("block %d is at %v and at %v", tag, other, place{name, i})
				}
				found[tag] = place{name, i}
			}
		}
	}
	if len(found) != len(tags) {
		t.Fatalf("%d of %d blocks are in no segment", len(tags)-len(found), len(tags))
	}
	return found
}

// misplaced is what exchanges of whole blocks and files leave to be seen: which
// blocks of which export can no longer be had, and which files are hit.
type misplaced struct {
	lost  map[string][]int
	files map[string]bool
}

// compare says what the store whose segments are now as given has lost.
func (f *fixture) compare(t testing.TB, live map[uint64]place, now map[string][]byte) misplaced {
	was := f.segments(t)
	m := misplaced{map[string][]int{}, map[string]bool{}}
	for name, tags := range f.content {
		for i, tag := range tags {
			if p := live[tag]; tag != 0 && !bytes.Equal(p.of(was), p.of(now)) {
				m.lost[name] = append(m.lost[name], i)
			}
		}
	}
	for name, b := range was {
		n := used(b)
		m.files[name] = len(now[name]) < n || !bytes.Equal(b[:n], now[name][:n])
	}
	return m
}

func segmentNumber(t testing.TB, file string) string {
	t.Helper()
	return fmt.Sprint("segment ", must[uint64](t)(strconv.ParseUint(strings.TrimSuffix(path.Base(file), ".seg"), 16, 64)))
}

// inspect puts the segments into a copy of the store. Of its blocks exactly
// those that are elsewhere now must be refused, all others be right, and check
// must name each file that is hit and each export that lost a block. A store
// that does not open must name a file that is hit.
func (f *fixture) inspect(t *testing.T, live map[uint64]place, now map[string][]byte) (opened bool) {
	t.Helper()
	ctx := context.Background()
	fs := f.clone()
	for name := range f.segments(t) {
		if _, stays := now[name]; !stays {
			mustDo(t, fs.Remove(name))
		}
	}
	for name, b := range now {
		writeFile(t, fs, name, bytes.Clone(b)) // MemFS spoils what it is given, under the race detector
	}
	want := f.compare(t, live, now)
	names := func(text string) bool {
		for name, hit := range want.files {
			if hit && regexp.MustCompile(segmentNumber(t, name)+`\b`).MatchString(text) {
				return true
			}
		}
		return false
	}
	s, err := volume.Open(options(fs))
	if err != nil {
		if !block.Is(err, block.Corrupt) || !names(err.Error()) {
			t.Errorf("open: %v: want an error of kind corrupt that names a segment that is hit", err)
		}
		return false
	}
	defer func() { _ = s.Close() }() // may fail: it is damaged
	lost := f.verify(t, s)
	if !maps.EqualFunc(lost, want.lost, slices.Equal) {
		t.Errorf("refused %v, want %v", lost, want.lost)
	}
	damages := must[[]check.Damage](t)(s.Check(ctx, true, nil))
	for name := range want.lost {
		if !slices.ContainsFunc(damages, func(d check.Damage) bool { return slices.Contains(d.Affected, name) }) {
			t.Errorf("check does not say that %s is hit: %v", name, damages)
		}
	}
	for name, hit := range want.files {
		if hit && !slices.ContainsFunc(damages, func(d check.Damage) bool { return strings.Contains(d.String(), path.Base(name)) }) {
			t.Errorf("check does not name %s: %v", path.Base(name), damages)
		}
	}
	return true
}

// exchange are the ways in which a whole block ends in a wrong place, or is not
// there: to holds what from has, or nothing.
var exchange = []struct {
	name string
	do   func(now map[string][]byte, from, to place)
}{
	{"swap", func(now map[string][]byte, from, to place) {
		x := bytes.Clone(to.of(now))
		copy(to.of(now), from.of(now))
		copy(from.of(now), x)
	}},
	{"misdirect", func(now map[string][]byte, from, to place) { copy(to.of(now), from.of(now)) }},
	{"zero", func(now map[string][]byte, _, to place) { clear(to.of(now)) }},
	{"truncate", func(now map[string][]byte, _, to place) { now[to.file] = now[to.file][:to.block*block.Size] }},
	{"truncate within", func(now map[string][]byte, _, to place) { now[to.file] = now[to.file][:to.block*block.Size+999] }},
}

func cloneAll(m map[string][]byte) map[string][]byte {
	m = maps.Clone(m)
	for name, b := range m {
		m[name] = bytes.Clone(b)
	}
	return m
}

// TestMisplacedBlock exchanges, loses and cuts off whole blocks, each of them
// intact, within a segment and between segments.
func TestMisplacedBlock(t *testing.T) {
	f := build(t, false)
	live, segments := f.live(t), f.segments(t)
	at := func(export string, i int) place { return live[f.content[export][i]] }
	pairs := map[string][2]place{
		"neighbours":         {at("own", 450), at("own", 451)},
		"one volume":         {at("base", 10), at("own", 401)},
		"one index":          {at("base", 20), at("left", 20)},
		"clone and snapshot": {at("base@s1", 20), at("base", 20)},
		"far":                {at("own", 20), at("left", 60)},
	}
	r := rand.New(rand.NewPCG(*damageSeed, 7))
	files := slices.Sorted(maps.Keys(segments))
	for n := range *damageCases { // headers and what is dead too
		var two [2]place
		for i := range two {
			name := files[r.IntN(len(files))]
			two[i] = place{name, r.IntN(used(segments[name])/block.Size + 1)}
		}
		pairs[fmt.Sprint("any ", n)] = two
	}
	within, between := 0, 0
	for name, pair := range pairs {
		if pair[0].file == pair[1].file {
			within++
		} else {
			between++
		}
		for _, way := range exchange {
			t.Run(way.name+" "+name, func(t *testing.T) {
				now := cloneAll(segments)
				way.do(now, pair[0], pair[1])
				f.inspect(t, live, now)
			})
		}
	}
	if within == 0 || between == 0 {
		t.Errorf("%d exchanges within a segment, %d between two: want both", within, between)
	}
}

// TestMisplacedFile removes segments, puts old copies of them back, and the
// segments of another store that has the same volumes.
func TestMisplacedFile(t *testing.T) {
	f, stranger := build(t, false), buildFrom(t, false, 1<<32)
	live, segments := f.live(t), f.segments(t)
	foreign := stranger.segments(t)
	changed := 0
	for name := range segments {
		t.Run("removed "+path.Base(name), func(t *testing.T) {
			now := cloneAll(segments)
			delete(now, name)
			f.inspect(t, live, now)
		})
		for from, b := range foreign {
			t.Run("foreign "+path.Base(from)+" as "+path.Base(name), func(t *testing.T) {
				now := cloneAll(segments)
				now[name] = b
				f.inspect(t, live, now)
			})
		}
	}
	for moment, old := range f.past {
		for name, b := range segmentsOf(t, old) {
			if bytes.Equal(b, segments[name]) {
				continue
			}
			changed++
			t.Run(fmt.Sprint("old ", moment, " ", path.Base(name)), func(t *testing.T) {
				now := cloneAll(segments)
				now[name] = b
				f.inspect(t, live, now)
			})
		}
	}
	if changed < 3 {
		t.Errorf("%d old copies that differ: want some of a deleted segment and of one that grew", changed)
	}
	now := cloneAll(segments)
	for from, b := range foreign {
		now[from] = b
	}
	if f.inspect(t, live, now) {
		t.Error("a store with all segments of another opens")
	}
}
