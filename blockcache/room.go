package blockcache

import (
	"errors"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// freeShare is the share of the file system that stays free.
const freeShare = 20

// mayFill counts n bytes that are to be filled, and reports whether there is room
// for them. Once in a while it looks, and makes room.
func (c *Cache) mayFill(b *Base, n int64) bool {
	if c.broken.Load() {
		return false
	}
	if c.filled.Add(n) > c.stepBytes() && c.room.TryLock() {
		c.filled.Store(0)
		c.full.Store(!c.makeRoom(b))
		if !linked(b.sums) { // somebody took it for unused, or removed the directory
			c.full.Store(true)
		}
		c.room.Unlock()
	}
	return !c.full.Load()
}

// kept is one base as the directory has it.
type kept struct {
	name  string
	bytes int64
	used  time.Time
}

// makeRoom removes what was used longest ago until the next step fits, but for
// the base that is being filled. It reports whether it does.
func (c *Cache) makeRoom(filling *Base) bool {
	lock, err := os.OpenFile(c.path("", lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return err == unix.EWOULDBLOCK && !c.full.Load() // another process is at it
	}
	bases, total, err := c.list()
	if err != nil {
		return false
	}
	excess := max(total+c.stepBytes()-c.limitBytes, c.shortage())
	for _, onlyUnused := range []bool{true, false} {
		for i := range bases {
			if excess <= 0 {
				return true
			}
			if k := &bases[i]; k.bytes > 0 && c.drop(k, filling, onlyUnused) {
				excess -= k.bytes
				k.bytes = 0
			}
		}
	}
	return excess <= 0
}

// shortage is how much has to go so that a share of the file system is free.
func (c *Cache) shortage() int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(c.dir, &st); err != nil {
		return 0
	}
	size := int64(st.Bsize) //nolint:unconvert // other widths elsewhere
	return int64(st.Blocks)*size/freeShare - int64(st.Bavail)*size
}

// list returns what the directory has, what was used longest ago first.
func (c *Cache) list() (bases []kept, total int64, err error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, 0, err
	}
	for _, e := range entries {
		name, isSums := strings.CutSuffix(e.Name(), sumsSuffix)
		if !isSums {
			continue
		}
		k := kept{name: name}
		for _, suffix := range []string{sumsSuffix, dataSuffix} {
			var st unix.Stat_t
			if unix.Stat(c.path(name, suffix), &st) != nil {
				continue
			}
			k.bytes += st.Blocks * 512
			if suffix == sumsSuffix {
				// Filling changes the time of the last change, opening that of the last access.
				k.used = time.Unix(st.Atim.Unix())
			}
		}
		bases, total = append(bases, k), total+k.bytes
	}
	sort.Slice(bases, func(i, j int) bool { return bases[i].used.Before(bases[j].used) })
	return bases, total, nil
}

// drop removes a base that nobody has open, or else, if it may, empties it.
func (c *Cache) drop(k *kept, filling *Base, onlyUnused bool) bool {
	sums, err := os.OpenFile(c.path(k.name, sumsSuffix), os.O_RDWR, 0)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	defer func() { _ = sums.Close() }()
	if unix.Flock(int(sums.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		return os.Remove(c.path(k.name, dataSuffix)) == nil && os.Remove(c.path(k.name, sumsSuffix)) == nil
	}
	if onlyUnused || filepath.Base(filling.sums.Name()) == k.name+sumsSuffix {
		return false
	}
	data, err := os.OpenFile(c.path(k.name, dataSuffix), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer func() { _ = data.Close() }()
	return empty(sums) == nil && empty(data) == nil
}

// empty makes a file one hole.
func empty(f *os.File) error {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, info.Size())
}
