package worker

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/certs"
)

// Names of the drivers.
const (
	driverNBD  = "nbd"
	driverFuse = "fuse"
)

// Phases of an attachment. All but attached mean that whoever was at work was
// killed, unless the target is locked.
const (
	phaseAttaching = "attaching"
	phaseMkfs      = "mkfs" // a file system is being made; what is there is worthless
	phaseAttached  = "attached"
	phaseDetaching = "detaching"
)

const (
	stateVersion  = 1
	maxStateBytes = 64 << 10
)

// state is what the state directory keeps of one target.
type state struct {
	Version int    `json:"version"`
	Target  string `json:"target"`
	// Nonce names this attach; an agent of an earlier one ends when it sees it.
	Nonce          string   `json:"nonce"`
	Phase          string   `json:"phase"`
	Driver         string   `json:"driver"`
	Server         string   `json:"server"`
	Worker         string   `json:"worker"`
	AttachmentID   string   `json:"attachment_id,omitempty"`
	ExportName     string   `json:"export_name,omitempty"`
	NBDAddresses   []string `json:"nbd_addresses,omitempty"`
	SizeBytes      uint64   `json:"size_bytes,omitempty"`
	Generation     uint64   `json:"generation,omitempty"` // of the attachment
	ReadOnly       bool     `json:"read_only"`
	Connections    int      `json:"connections"`
	RequestSeconds int      `json:"request_timeout_seconds"`
	DeadSeconds    int      `json:"dead_timeout_seconds"`
	// TLS files for the connections of agents; paths, never their content.
	TLSCA   string `json:"tls_ca,omitempty"`
	TLSCert string `json:"tls_cert,omitempty"`
	TLSKey  string `json:"tls_key,omitempty"`

	// Base and the cache of its blocks, of the fuse driver.
	Base       *base  `json:"base,omitempty"`
	CacheDir   string `json:"cache_dir,omitempty"`
	CacheBytes int64  `json:"cache_bytes,omitempty"`
	Prefetch   bool   `json:"prefetch,omitempty"`

	MountDir     string    `json:"mount_dir,omitempty"`
	MadeMountDir bool      `json:"made_mount_dir,omitempty"`
	Created      time.Time `json:"created"`
	// Boot is the boot id of the kernel that has the device; "" is not known.
	Boot string `json:"boot,omitempty"`

	device string // made by this process just now; the kernel may know better later
}

func (s *state) requestTimeout() time.Duration { return time.Duration(s.RequestSeconds) * time.Second }
func (s *state) deadTimeout() time.Duration    { return time.Duration(s.DeadSeconds) * time.Second }

// bootIDFile has a number that is another after each boot.
const bootIDFile = "/proc/sys/kernel/random/boot_id"

// bootID returns the boot id of the running kernel, "" if it has none.
func bootID() string {
	b, err := os.ReadFile(bootIDFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// earlierBoot reports whether the state is from before this host was started: of
// what it speaks of, only the attachment at the server can be left.
func (w *Worker) earlierBoot(s *state) bool {
	return s.Boot != "" && w.boot != "" && s.Boot != w.boot
}

// secure gives the TLS configuration of connections, nil without TLS.
func (s *state) secure() func() (*tls.Config, error) {
	files := certs.Files{CA: s.TLSCA, Cert: s.TLSCert, Key: s.TLSKey}
	if files.Empty() {
		return nil
	}
	return files.Client
}

// store is the state directory:
//
//	KEY.json    the state of a target
//	KEY.lock    locked while somebody changes the target
//	KEY.agent   locked by the agent while it lives; holds its pid
//	KEY.sockets the ends of the sockets of an nbd device, by slot
//	KEY.log     what the agent has to say
//	KEY.stats   what its agent has counted so far, JSON
//	KEY.fuse/   where the fuse driver's file system is mounted
//	cache/      the blocks that are kept, unless they are elsewhere
type store struct{ dir string }

const socketsSuffix = ".sockets"

func (d store) path(key, suffix string) string { return filepath.Join(d.dir, key+suffix) }
func (d store) fuseDir(target string) string   { return d.path(keyOf(target), ".fuse") }

// fuseFile is the one file there. Its name is unique on the host: once the
// file system is unmounted below a loop device, the name is all that the
// kernel still shows of where the device belongs.
func (d store) fuseFile(target string) string {
	sum := sha256.Sum256([]byte(d.dir + "\x00" + target))
	return filepath.Join(d.fuseDir(target), "slacker-"+hex.EncodeToString(sum[:12]))
}

func (d store) init() error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return block.Errorf(block.KindOfFile(err), "make the state directory: %w", err)
	}
	return nil
}

// lock takes the lock of a target, or fails with Busy. The kernel drops it
// when the process dies; the file stays, since removing it would race.
func (d store) lock(target string) (unlock func(), err error) {
	f, err := os.OpenFile(d.path(keyOf(target), ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, block.Errorf(block.KindOfFile(err), "lock %s: %w", target, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if err == unix.EWOULDBLOCK {
			return nil, block.Errorf(block.Busy, "%s is being attached or detached by another process just now", target)
		}
		return nil, block.Errorf(block.IO, "lock %s: %w", target, err)
	}
	return func() { _ = f.Close() }, nil
}

// load reads the state of a target; nil when there is none.
func (d store) load(target string) (*state, error) {
	s, err := d.read(d.path(keyOf(target), ".json"))
	if err != nil || s == nil {
		return nil, err
	}
	if s.Target != target {
		return nil, block.Errorf(block.Corrupt, "state file of %s names %q", target, s.Target)
	}
	return s, nil
}

func (d store) read(path string) (*state, error) {
	info, err := os.Stat(path)
	if errGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, block.Errorf(block.KindOfFile(err), "read state: %w", err)
	}
	if info.Size() > maxStateBytes {
		return nil, block.Errorf(block.Corrupt, "state file %s has %d bytes, want at most %d", path, info.Size(), maxStateBytes)
	}
	b, err := os.ReadFile(path)
	if errGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, block.Errorf(block.KindOfFile(err), "read state: %w", err)
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, block.Errorf(block.Corrupt, "state file %s: %w", path, err)
	}
	if s.Version != stateVersion || checkTarget(s.Target) != nil || (s.Driver != driverNBD && s.Driver != driverFuse) {
		return nil, block.Errorf(block.Corrupt, "state file %s: version %d, target %q, driver %q", path, s.Version, s.Target, s.Driver)
	}
	return &s, nil
}

// save writes the state: after it the old one or this one is there, whole.
func (d store) save(s *state) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return block.Errorf(block.Internal, "encode state of %s: %w", s.Target, err)
	}
	if err := d.replace(d.path(keyOf(s.Target), ".json"), append(b, '\n')); err != nil {
		return block.Errorf(block.KindOfFile(err), "save state of %s: %w", s.Target, err)
	}
	return nil
}

func (d store) replace(path string, b []byte) error {
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	return err
}

// remove removes what the directory keeps of a target, but for its lock; the
// state file goes last.
func (d store) remove(target string) error {
	for _, suffix := range []string{".json.tmp", ".agent", ".log", ".stats.tmp", ".stats", socketsSuffix, ".json"} {
		if err := os.Remove(d.path(keyOf(target), suffix)); err != nil && !errGone(err) {
			return block.Errorf(block.KindOfFile(err), "remove state of %s: %w", target, err)
		}
	}
	return nil
}

// all returns the states of all targets, and the faults of unreadable ones.
func (d store) all() (states []*state, faults []error, err error) {
	entries, err := os.ReadDir(d.dir)
	if errGone(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, block.Errorf(block.KindOfFile(err), "read the state directory: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		s, err := d.read(filepath.Join(d.dir, e.Name()))
		if err != nil {
			faults = append(faults, err)
		} else if s != nil {
			states = append(states, s)
		}
	}
	return states, faults, nil
}
