package main

import (
	"cmp"
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/certs"
	"github.com/slackerd/slacker/naming"
	"github.com/slackerd/slacker/snapshotter"
	"github.com/slackerd/slacker/worker"
)

// defaultListen is where containerd is told to look.
const defaultListen = "/run/slacker/snapshotter.sock"

// flags are those of the program.
type flags struct {
	tls                                              certs.Files
	server, stateDir, workerName, client             string
	listen, root, prefix, driver, size, mount, level string
	cacheDir, cacheSize                              string
	publish, prefetch                                bool
	timeout, idle                                    time.Duration
	spares                                           int
}

const long = `slacker-snapshotter is a containerd snapshotter, a proxy plugin. Image layers that
any worker has unpacked are snapshots of the slackerd server: a pull finds them
there and downloads nothing but the manifest and the configuration, and a
container starts on a clone. It needs root, and slacker-client beside it or in
PATH, whose agents keep devices alive while this program restarts.

Tell containerd of it in /etc/containerd/config.toml:

  [proxy_plugins.slacker]
    type = "snapshot"
    address = "` + defaultListen + `"

Exit status:
`

func newRoot() *cobra.Command {
	f, d := &flags{}, snapshotter.DefaultOptions()
	root := &cobra.Command{
		Use:           "slacker-snapshotter",
		Short:         "containerd snapshotter on Slacker",
		Long:          long + api.ExitStatusHelp,
		Example:       "  slacker-snapshotter --server http://store:10808\n  ctr image pull --snapshotter slacker registry.example.org/redis:7",
		SilenceErrors: true, SilenceUsage: true,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.serve(cmd.Context()) },
	}
	p := root.PersistentFlags()
	p.StringVar(&f.server, "server", cmp.Or(os.Getenv("SLACKER_SERVER"), api.DefaultAddr), "admin API: http://HOST:PORT or unix:///PATH (also $SLACKER_SERVER)")
	p.StringVar(&f.tls.CA, "tls-ca", os.Getenv("SLACKER_TLS_CA"), "`FILE` with the authority of the server's certificate ($SLACKER_TLS_CA)")
	p.StringVar(&f.tls.Cert, "tls-cert", os.Getenv("SLACKER_TLS_CERT"), "`FILE` with the own certificate ($SLACKER_TLS_CERT)")
	p.StringVar(&f.tls.Key, "tls-key", os.Getenv("SLACKER_TLS_KEY"), "`FILE` with its key ($SLACKER_TLS_KEY)")
	p.StringVar(&f.workerName, "worker", "", "name of this host at the server (default: host name and machine id)")
	p.StringVar(&f.client, "client", "", "slacker-client (default: beside this program, or in PATH)")
	p.StringVar(&f.prefix, "prefix", string(d.Prefix), "what the names of all volumes begin with; workers that share layers have the same")
	p.StringVar(&f.driver, "driver", d.Driver, "auto, nbd or fuse")
	p.StringVar(&f.size, "size", humanize.IBytes(d.SizeBytes), "size of the file systems; only what is written takes room")
	p.StringVar(&f.mount, "mount-options", strings.Join(d.MountOptions, ","), "options of writable ext4 mounts")
	p.BoolVar(&f.prefetch, "prefetch", os.Getenv("SLACKER_PREFETCH") != "false", "over distant links, fetch compressed and ahead what is read of a snapshot, and what an earlier start of a clone of it has read (needs the cache); over any, exchange with other workers which files of an image containers open (also $SLACKER_PREFETCH)")
	p.StringVar(&f.cacheDir, "cache-dir", os.Getenv("SLACKER_CACHE_DIR"), "where the fuse driver keeps what it has read of snapshots (also $SLACKER_CACHE_DIR; default "+worker.DefaultCacheDir+", or in a --state-dir of its own)")
	p.StringVar(&f.cacheSize, "cache-size", os.Getenv("SLACKER_CACHE_SIZE"), "how much of that, for all attachments of this host; 0 keeps nothing (also $SLACKER_CACHE_SIZE; default "+humanize.IBytes(worker.DefaultCacheBytes)+")")
	p.DurationVar(&f.timeout, "timeout", d.Timeout, "how long a request waits for the server before it fails as unavailable")
	p = root.Flags()
	p.StringVar(&f.listen, "listen", defaultListen, "unix socket for containerd")
	p.StringVar(&f.root, "root", d.Root, "directory of this snapshotter alone")
	p.StringVar(&f.stateDir, "state-dir", worker.DefaultStateDir, "where this host's attachments are written down")
	p.BoolVar(&f.publish, "publish", d.Publish, "make layers that are unpacked here visible to all workers")
	p.DurationVar(&f.idle, "idle", d.Idle, "how long the volume of a layer stays attached for the next one")
	p.IntVar(&f.spares, "spares", d.Spares, "how many volumes may wait, attached and mounted, for containers of the images that were pulled or started last")
	p.StringVar(&f.level, "log-level", "info", "debug, info, warn or error")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return block.Errorf(block.Invalid, "%w", err) })
	root.AddCommand(importCommand(f), versionCommand(), manCommand(root))
	return root
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return block.Errorf(block.Invalid, "%s takes no arguments, got %q: see %s --help", cmd.CommandPath(), args, cmd.CommandPath())
	}
	return nil
}

// findClient returns the program whose agents serve devices.
func (f *flags) findClient() (string, error) {
	if f.client != "" {
		return filepath.Abs(f.client)
	}
	exe, err := os.Executable()
	if err == nil {
		beside := filepath.Join(filepath.Dir(exe), "slacker-client")
		if info, err := os.Stat(beside); err == nil && info.Mode()&0o111 != 0 {
			return beside, nil
		}
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, "slacker-client")
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return filepath.Abs(path)
		}
	}
	return "", block.Errorf(block.Unsupported, "slacker-client is neither beside this program nor in PATH: want it there, or --client FILE")
}

// options makes the snapshotter's options of the flags.
func (f *flags) options(log *zap.Logger) (snapshotter.Options, error) {
	o := snapshotter.DefaultOptions()
	w, err := f.worker()
	if err != nil {
		return o, err
	}
	if o.SizeBytes, err = humanize.ParseBytes(f.size); err != nil {
		return o, block.Errorf(block.Invalid, "size %q: want a number and a unit, for example 64GiB", f.size)
	}
	o.MountOptions = nil
	if f.mount != "" {
		o.MountOptions = strings.Split(f.mount, ",")
	}
	if o.Root, err = filepath.Abs(f.root); err != nil {
		return o, block.Errorf(block.Invalid, "root: %w", err)
	}
	o.API, o.Worker, o.Log, o.Driver, o.Prefix = w.API, w, log, f.driver, naming.Prefix(f.prefix)
	o.Publish, o.Timeout, o.Idle, o.Spares = f.publish, f.timeout, f.idle, f.spares
	return o, nil
}

func (f *flags) worker() (*worker.Worker, error) {
	c, err := worker.DefaultConfig()
	if err != nil {
		return nil, err
	}
	if c.Executable, err = f.findClient(); err != nil {
		return nil, err
	}
	for _, file := range []*string{&f.tls.CA, &f.tls.Cert, &f.tls.Key} {
		if *file == "" {
			continue
		}
		if *file, err = filepath.Abs(*file); err != nil { // agents work in /
			return nil, block.Errorf(block.Invalid, "TLS file: %w", err)
		}
	}
	var secure func() (*tls.Config, error)
	if c.TLS = f.tls; !f.tls.Empty() {
		secure = f.tls.Client
	}
	if c.API, err = api.NewTLSClient(f.server, secure); err != nil {
		return nil, err
	}
	c.Server, c.StateDir, c.CacheDir, c.Prefetch = f.server, f.stateDir, f.cacheDir, f.prefetch
	if err := c.SetCacheSize(f.cacheSize); err != nil {
		return nil, err
	}
	c.Worker = cmp.Or(f.workerName, c.Worker)
	return worker.New(c)
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.Printf("slacker-snapshotter %s\n", version)
			return nil
		},
	}
}

func manCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "man DIRECTORY", Short: "write the man pages into a directory", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			root.DisableAutoGenTag = true
			header := &doc.GenManHeader{Title: "SLACKER-SNAPSHOTTER", Section: "8", Source: "Slacker " + version, Date: &time.Time{}}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return block.Errorf(block.IO, "write man pages: %w", err)
			}
			return block.Wrap(block.IO, doc.GenManTree(root, header, args[0]), "write man pages")
		},
	}
}
