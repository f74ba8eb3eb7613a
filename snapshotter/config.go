package snapshotter

import (
	"cmp"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/naming"
	"github.com/slackerd/slacker/worker"
)

// Defaults of Options.
const (
	DefaultRoot      = "/var/lib/slacker-snapshotter"
	DefaultSizeBytes = 64 << 30
	DefaultTimeout   = 20 * time.Second
	// DefaultIdle is how long a stepping stone is kept.
	DefaultIdle = 5 * time.Second
	// DefaultBeat is how often the server hears of a store.
	DefaultBeat = time.Hour
	// DefaultSpares are the most volumes that wait attached.
	DefaultSpares = 4

	minSizeBytes  = 64 << 20
	maxPrefix     = 24
	maxWorkerName = 48
)

// Options of a snapshotter; see Defaults.
type Options struct {
	// Root is a directory of this snapshotter alone.
	Root string
	// Prefix is what the names of all volumes begin with.
	Prefix naming.Prefix
	API    slackerv1connect.AdminServiceClient
	Worker *worker.Worker
	// Driver is "auto", "nbd" or "fuse".
	Driver string
	// SizeBytes of the file systems that containers and layers are on.
	SizeBytes uint64
	// MountOptions of writable file systems.
	MountOptions []string
	// Publish: what is unpacked becomes visible to all workers.
	Publish bool
	// Timeout bounds what a request waits for the server.
	Timeout time.Duration
	// Idle is how long a stepping stone waits for the next layer.
	Idle time.Duration
	// Spares is how many volumes may wait attached and mounted for containers of
	// the images that were pulled or started last; 0 is none.
	Spares int
	// Beat is how often the server hears of this store; 0 is never.
	Beat time.Duration
	Log  *zap.Logger
}

// DefaultOptions returns the defaults, without API, Worker and Log.
func DefaultOptions() Options {
	return Options{Root: DefaultRoot, Prefix: naming.DefaultPrefix, Driver: "auto", SizeBytes: DefaultSizeBytes,
		MountOptions: []string{"noatime"}, Publish: true, Timeout: DefaultTimeout, Idle: DefaultIdle, Spares: DefaultSpares, Beat: DefaultBeat}
}

var (
	plainPath   = regexp.MustCompile(`^/[A-Za-z0-9._/-]+$`)
	plainPrefix = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$`)
	notPlain    = regexp.MustCompile(`[^A-Za-z0-9._-]+`)
)

// check refuses what is wrong, all at once.
func (o *Options) check() error {
	var faults []string
	if !plainPath.MatchString(o.Root) || filepath.Clean(o.Root) == "/" {
		faults = append(faults, "root "+o.Root+": want an absolute path of letters, digits, '.', '_', '-'")
	}
	if !plainPrefix.MatchString(string(o.Prefix)) || len(o.Prefix) > maxPrefix {
		faults = append(faults, "prefix "+string(o.Prefix)+": want a part of a volume name, at most 24 bytes")
	}
	if o.API == nil || o.Worker == nil || o.Log == nil {
		faults = append(faults, "client, worker or log are not set")
	}
	if o.SizeBytes < minSizeBytes || o.SizeBytes > block.MaxVolumeBytes || o.SizeBytes%(1<<20) != 0 {
		faults = append(faults, "size: want a multiple of 1 MiB, at least 64 MiB, at most 256 TiB")
	}
	if o.Timeout < time.Second || o.Idle < 0 || o.Spares < 0 || o.Beat < 0 {
		faults = append(faults, "timeout: want at least 1s; idle time, spares and beat: want none or more")
	}
	if len(faults) > 0 {
		return block.Errorf(block.Invalid, "snapshotter: %s", strings.Join(faults, "; "))
	}
	return nil
}

// names are those of the server's volumes.
type names struct {
	prefix naming.Prefix
	size   uint64
	own    string // what this store's own volumes begin with
}

// workerName is what the worker is called in the names of volumes.
func workerName(o Options) string {
	worker := strings.Trim(notPlain.ReplaceAllString(o.Worker.Worker, "-"), "-._")
	if len(worker) > maxWorkerName {
		worker = worker[:maxWorkerName]
	}
	return cmp.Or(worker, "worker")
}
