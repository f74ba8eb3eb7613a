package blockcache

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

const (
	dataSuffix = ".data"
	sumsSuffix = ".sums"
	lockName   = "LOCK"
	nameBytes  = 16
	sumBytes   = 8
	// stepShare is the share of the limit that a process fills before it looks
	// again how much there is, within the bounds that follow.
	stepShare    = 32
	minStepBytes = 1 << 20
	maxStepBytes = 64 << 20
	// MinLimitBytes is the smallest limit.
	MinLimitBytes = 1 << 20
)

// Cache is the cache in one directory. Its methods may run concurrently.
type Cache struct {
	dir        string
	limitBytes int64

	filled atomic.Int64 // bytes since the last look
	full   atomic.Bool  // the last look found no room
	broken atomic.Bool  // writing has failed
	room   sync.Mutex   // held by who looks
}

// Open opens the cache in a directory, which it makes.
func Open(dir string, limitBytes int64) (*Cache, error) {
	if !filepath.IsAbs(dir) || limitBytes < MinLimitBytes {
		return nil, block.Errorf(block.Invalid, "open block cache: directory %q and limit %d: want an absolute path and at least %d bytes", dir, limitBytes, MinLimitBytes)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, block.Errorf(block.KindOfFile(err), "open block cache: %w", err)
	}
	c := &Cache{dir: dir, limitBytes: limitBytes}
	c.filled.Store(c.stepBytes()) // what other processes left is looked at first
	return c, nil
}

func (c *Cache) stepBytes() int64 {
	return min(max(c.limitBytes/stepShare, minStepBytes), maxStepBytes)
}

// Base is one base, opened by this process. Its methods may run concurrently.
type Base struct {
	cache      *Cache
	name       [nameBytes]byte
	sizeBytes  uint64
	data, sums *os.File
}

func nameOf(server, id string) (n [nameBytes]byte) {
	sum := sha256.Sum256([]byte(server + "\x00" + id))
	copy(n[:], sum[:])
	return n
}

func (c *Cache) path(name, suffix string) string { return filepath.Join(c.dir, name+suffix) }

// maxOpens bounds the attempts to open a base that others remove meanwhile.
const maxOpens = 16

// Base opens the base with an identity that a server has given, of so many bytes,
// and counts it as used now.
func (c *Cache) Base(server, id string, sizeBytes uint64) (*Base, error) {
	if server == "" || id == "" || sizeBytes > block.MaxVolumeBytes {
		return nil, block.Errorf(block.Invalid, "open a base of the block cache: server %q, identity %q, %d bytes", server, id, sizeBytes)
	}
	b := &Base{cache: c, name: nameOf(server, id), sizeBytes: sizeBytes - sizeBytes%block.Size}
	name := hex.EncodeToString(b.name[:])
	for range maxOpens {
		kept, err := b.open(name)
		if err != nil {
			return nil, block.Errorf(block.KindOfFile(err), "open a base of the block cache: %w", err)
		}
		if kept {
			now := time.Now()
			_ = os.Chtimes(c.path(name, sumsSuffix), now, now) // else it goes earlier
			return b, nil
		}
	}
	return nil, block.Errorf(block.Busy, "open a base of the block cache: it was removed %d times meanwhile", maxOpens)
}

// open opens the files and locks them. They are not kept when somebody has
// removed them before they were locked.
func (b *Base) open(name string) (kept bool, err error) {
	b.sums, err = os.OpenFile(b.cache.path(name, sumsSuffix), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	defer func() {
		if !kept {
			_ = b.sums.Close()
		}
	}()
	if err := unix.Flock(int(b.sums.Fd()), unix.LOCK_SH); err != nil {
		return false, err
	}
	if !linked(b.sums) {
		return false, nil
	}
	b.data, err = os.OpenFile(b.cache.path(name, dataSuffix), os.O_RDWR|os.O_CREATE, 0o600)
	return err == nil, err
}

// linked reports whether a file still has a name.
func linked(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Nlink > 0
}

// Lead makes the caller the one that fetches ahead for the base, of all that have it
// open, until Follow or the end of the process; it reports false while another is.
func (b *Base) Lead() bool {
	return unix.Flock(int(b.data.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// Follow undoes Lead.
func (b *Base) Follow() { _ = unix.Flock(int(b.data.Fd()), unix.LOCK_UN) } // closing does it too

// Close ends the use of the base by this process. Nothing else may be in
// progress.
func (b *Base) Close() error {
	err := b.data.Close()
	if serr := b.sums.Close(); err == nil {
		err = serr
	}
	return block.Wrap(block.IO, err, "close a base of the block cache")
}

// SizeBytes is the size of the base in whole blocks.
func (b *Base) SizeBytes() uint64 { return b.sizeBytes }
