package volume

import (
	"io"
	"maps"
	"math/rand/v2"
	"path"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
)

// sectorBytes is what a disk writes as a whole.
const sectorBytes = 512

// powerCut copies what a power cut now may leave. For each kind of cut a crash
// of the real world: of what was not synced nothing is there, half or all of
// the blocks of 4 KiB, or any of the sectors.
func powerCut(mem *vfs.MemFS, kind cutKind, rng *rand.Rand) *vfs.MemFS {
	if kind == cutTorn {
		return tornCut(mem, rng)
	}
	return mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(kind), RNG: rng})
}

// cutKind is the percentage of unsynced blocks that stay, or cutTorn.
type cutKind int

const cutTorn cutKind = -1

var cutKinds = []cutKind{0, 50, 100, cutTorn}

func (k cutKind) String() string {
	if k == cutTorn {
		return "torn sectors of unsynced data"
	}
	return map[cutKind]string{0: "no unsynced data", 50: "half of the unsynced data", 100: "all unsynced data"}[k]
}

// tornCut goes beyond MemFS's own clone: blocks are torn at sectors, a file ends
// at any sector between its synced and its present length, and removals that
// were not synced may be there. As in a file system with a journal, changes of
// a directory stay in their order: a removal is there only with all that was
// made before it.
//
// It mixes clones, of what is synced and of what is there. They belong together
// if nothing was synced between them.
func tornCut(mem *vfs.MemFS, rng *rand.Rand) *vfs.MemFS {
	for {
		synced := filesOf(mem.CrashClone(vfs.CrashCloneCfg{}))
		half := filesOf(mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng}))
		all := filesOf(mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng}))
		there := filesOf(mem)
		if !maps.EqualFunc(synced, filesOf(mem.CrashClone(vfs.CrashCloneCfg{})), slices.Equal) {
			continue
		}
		out := vfs.NewCrashableMem()
		late := rng.IntN(2) == 0 // everything was made, and some is removed
		for _, name := range sorted(all) {
			now := all[name]
			old, made := synced[name]
			_, stays := there[name]
			switch {
			case late && !stays && rng.IntN(2) == 0: // removed
			case made:
				putFile(out, name, tear(old, now, rng))
			case late: // of what is made but not synced MemFS alone knows which data is
				putFile(out, name, now)
			default:
				if b, kept := half[name]; kept {
					putFile(out, name, b)
				}
			}
		}
		return out
	}
}

// tear mixes two contents of a file.
func tear(old, now []byte, rng *rand.Rand) []byte {
	size := len(now)
	if len(now) > len(old) {
		size = len(old) + sectorBytes*rng.IntN((len(now)-len(old))/sectorBytes+2)
	}
	out := make([]byte, max(size, len(old), len(now)))
	copy(out, old)
	for at := 0; at < len(now); at += block.Size {
		keep := rng.IntN(3) // no sector, all, or each with even odds
		for s := at; s < min(at+block.Size, len(now)); s += sectorBytes {
			if keep == 1 || keep == 2 && rng.IntN(2) == 0 {
				copy(out[s:], now[s:min(s+sectorBytes, len(now))])
			}
		}
	}
	return out[:min(size, len(out))]
}

// filesOf returns the contents of all files by path.
func filesOf(fs vfs.FS) map[string][]byte {
	files := map[string][]byte{}
	var walk func(dir string)
	walk = func(dir string) {
		names, err := fs.List(dir)
		if err != nil {
			panic(err)
		}
		for _, n := range names {
			name := path.Join(dir, n)
			f, err := fs.Open(name)
			if err != nil {
				continue // removed meanwhile
			}
			info, err := f.Stat()
			if err != nil {
				panic(err)
			}
			if info.IsDir() {
				_ = f.Close()
				walk(name)
				continue
			}
			b, err := io.ReadAll(io.NewSectionReader(f, 0, info.Size()))
			if err != nil {
				panic(err)
			}
			_ = f.Close()
			files[name] = b
		}
	}
	walk("/")
	return files
}

// putFile makes a file that is durable.
func putFile(fs *vfs.MemFS, name string, data []byte) {
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	check(fs.MkdirAll(path.Dir(name), 0o755))
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	check(err)
	_, err = f.Write(data)
	check(err)
	check(f.Sync())
	check(f.Close())
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		d, err := fs.OpenDir(dir)
		check(err)
		check(d.Sync())
		check(d.Close())
		if dir == "/" {
			return
		}
	}
}
