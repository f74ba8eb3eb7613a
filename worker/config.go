package worker

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/blockcache"
	"github.com/slackerd/slacker/certs"
	"github.com/slackerd/slacker/nbdclient"
)

// Defaults and limits.
const (
	DefaultStateDir       = "/run/slacker"
	DefaultRequestTimeout = 15 * time.Second
	DefaultDeadTimeout    = 300 * time.Second
	// DefaultFuseConnections are the connections of the fuse driver, which sends
	// a lost request again only after its connection has been fenced.
	DefaultFuseConnections = 4
	// DefaultNBDConnections are the connections of the nbd driver. The kernel
	// sends a request that timed out again at once on any other socket, before
	// the server can know that the first is dead, so that a held write may land
	// after its repetition (facts: stale writes). With one socket it has to wait
	// for the socket's successor, and the server fences the old one before.
	DefaultNBDConnections = 1
	// agentStartTimeout bounds the start of an agent.
	agentStartTimeout = 30 * time.Second
	// settleTimeout bounds how long a kernel object may take to go away.
	settleTimeout = 10 * time.Second
	// forcedSyncTimeout is how long a forced detach waits for what is cached to
	// reach the server, and for the server to end the attachment.
	forcedSyncTimeout = 5 * time.Second
	// forcedSettleTimeout is the same where what stays in use is left alone.
	forcedSettleTimeout = time.Second
)

// Config is what all operations of a worker share.
type Config struct {
	StateDir string
	// Server is the address of the admin API, for messages and the state.
	Server string
	// TLS are the files for connections to the server; absolute paths, or empty.
	TLS certs.Files
	API slackerv1connect.AdminServiceClient
	// Worker is the name under which the server knows this host.
	Worker string
	// Executable is started as the agents: EXECUTABLE monitor|fuse-daemon ARGS.
	Executable string
	// RequestTimeout is when the kernel takes a connection for dead; it must
	// exceed the server's slowest honest answer. DeadTimeout is how long I/O
	// waits for a dead server before it fails.
	RequestTimeout, DeadTimeout time.Duration
	// CacheBytes bounds the blocks that the fuse driver keeps of what it has read,
	// for all attachments of this host; 0 keeps none. They are in CacheDir; empty
	// is DefaultCacheDir, or a directory in a state directory of its own.
	CacheDir   string
	CacheBytes int64
	// Prefetch lets it fetch, over distant links, what is read of a snapshot
	// compressed and ahead, and what an earlier start of a clone of it has read; and
	// tell the server what this one does. It also lets the server tell, and be told,
	// which files are opened.
	Prefetch bool
	// Verbose is told of each step and how long it took.
	Verbose func(step string, took time.Duration)
	// fault is called before each step; tests fail a step by it.
	fault func(step string) error
}

// DefaultConfig returns the configuration of the host, without API and Server.
func DefaultConfig() (Config, error) {
	exe, err := os.Executable()
	if err != nil {
		return Config{}, block.Errorf(block.Internal, "find the running executable: %w", err)
	}
	name, err := HostName()
	if err != nil {
		return Config{}, err
	}
	return Config{StateDir: DefaultStateDir, Worker: name, Executable: exe, RequestTimeout: DefaultRequestTimeout,
		DeadTimeout: DefaultDeadTimeout, CacheBytes: DefaultCacheBytes, Prefetch: true, Verbose: func(string, time.Duration) {}, fault: func(string) error { return nil }}, nil
}

// HostName names this host: its host name and the start of its machine id,
// since host names repeat among containers and cloned machines.
func HostName() (string, error) {
	name, err := os.Hostname()
	if err != nil {
		return "", block.Errorf(block.IO, "read the host name: %w", err)
	}
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil || len(id) < 8 {
		return name, nil
	}
	return name + "-" + string(id[:8]), nil
}

// SetCacheSize sets CacheBytes from text; the empty text leaves it.
func (c *Config) SetCacheSize(text string) error {
	if text == "" {
		return nil
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n > math.MaxInt64 {
		return block.Errorf(block.Invalid, "cache size %q: want a number and a unit, for example 4GiB, or 0", text)
	}
	c.CacheBytes = int64(n)
	return nil
}

// check refuses what is missing, all at once.
func (c *Config) check() error {
	var faults []string
	if !filepath.IsAbs(c.StateDir) {
		faults = append(faults, "state directory "+c.StateDir+" is not an absolute path")
	}
	if c.API == nil || c.Worker == "" || c.Executable == "" || c.Verbose == nil || c.fault == nil {
		faults = append(faults, "client, worker name, executable or callbacks are not set: start from DefaultConfig")
	}
	if c.RequestTimeout < time.Second || c.DeadTimeout < time.Second {
		faults = append(faults, "request timeout and dead timeout must be at least 1s")
	}
	if c.CacheDir != "" && !filepath.IsAbs(c.CacheDir) {
		faults = append(faults, "cache directory "+c.CacheDir+" is not an absolute path")
	}
	if c.CacheBytes != 0 && c.CacheBytes < blockcache.MinLimitBytes {
		faults = append(faults, fmt.Sprintf("cache of %d bytes, want at least %d, or 0 for none", c.CacheBytes, blockcache.MinLimitBytes))
	}
	if len(faults) > 0 {
		return block.Errorf(block.Invalid, "worker: %s", strings.Join(faults, "; "))
	}
	return nil
}

// AttachOptions say how a target is attached.
type AttachOptions struct {
	Driver      string // "auto", "nbd" or "fuse"
	MountDir    string // empty: do not mount
	Mkfs        bool   // make an ext4 file system when the volume is blank
	ReadOnly    bool
	Takeover    bool // take the volume from whoever has it
	Connections int  // 0: the driver's default
	// Clone is the VOLUME@SNAPSHOT of which the target is made first, when it is
	// not attached yet. It must not exist then.
	Clone string
}

func (o *AttachOptions) check() error {
	var faults []string
	if o.Driver != "auto" && o.Driver != driverNBD && o.Driver != driverFuse {
		faults = append(faults, "driver "+o.Driver+", want auto, nbd or fuse")
	}
	if o.MountDir != "" && !filepath.IsAbs(o.MountDir) {
		faults = append(faults, "mount directory "+o.MountDir+" is not an absolute path")
	}
	if o.Mkfs && o.ReadOnly {
		faults = append(faults, "a read-only attachment takes no file system: mkfs and read-only exclude each other")
	}
	if o.Clone != "" {
		if _, _, err := block.SplitSnapshot(o.Clone); err != nil {
			faults = append(faults, "clone: "+err.Error())
		}
		if o.ReadOnly {
			faults = append(faults, "a clone is attached for writing: clone and read-only exclude each other")
		}
	}
	if o.Connections < 0 || o.Connections > nbdclient.MaxConnections {
		faults = append(faults, "connections out of range, want 1 to 64, or 0 for the driver's default")
	}
	if len(faults) > 0 {
		return block.Errorf(block.Invalid, "attach: %s", strings.Join(faults, "; "))
	}
	return nil
}

// checkTarget refuses what names neither a volume nor a snapshot.
func checkTarget(target string) error {
	if strings.Contains(target, "@") {
		_, _, err := block.SplitSnapshot(target)
		return err
	}
	return block.CheckVolumeName(target)
}

// keyOf is the name of a target in the state directory.
func keyOf(target string) string {
	sum := sha256.Sum256([]byte(target))
	return hex.EncodeToString(sum[:12])
}

// joinLine makes one line of several errors, of the kind of the first; nil
// errors are left out.
func joinLine(errs ...error) error {
	var joined error
	for _, e := range errs {
		switch {
		case e == nil:
		case joined == nil:
			joined = e
		default:
			joined = block.Errorf(block.KindOf(joined), "%w; %w", joined, e)
		}
	}
	return joined
}

// errGone matches what os calls report of something already removed.
func errGone(err error) bool { return errors.Is(err, os.ErrNotExist) }
