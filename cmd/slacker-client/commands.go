package main

import (
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/worker"
)

func attachCommand(f *flags) *cobra.Command {
	var o worker.AttachOptions
	cmd := &cobra.Command{
		Use:   "attach VOLUME|VOLUME@SNAPSHOT",
		Short: "make a volume or snapshot a block device, and mount it",
		Long: `attach makes a volume, or a snapshot with --read-only, a block device of this
host and prints the device. Attaching again in the same way prints the same
device. After an error nothing is left behind.

Drivers: "nbd" is the kernel's NBD client, with no process in the path of the
data; "fuse" is a FUSE file system with a loop device, for hosts whose kernel
has no nbd module; "auto" takes nbd where it works (--verbose says why).`,
		Example: `  slacker-client attach web1 --mkfs --mount /mnt/web1
  slacker-client attach images/debian@v1 --read-only --mount /mnt/debian
  slacker-client attach web2 --clone images/debian@v1 --mount /mnt/web2
  slacker-client attach web1 --takeover`,
		Args: exactArgs("TARGET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := f.open(cmd)
			if err != nil {
				return err
			}
			if o.MountDir != "" {
				if o.MountDir, err = filepath.Abs(o.MountDir); err != nil {
					return block.Errorf(block.Invalid, "mount directory: %w", err)
				}
			}
			a, err := w.Attach(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			if f.verbose && a.DriverReason != "" {
				cmd.PrintErrf("driver %s: %s\n", a.Driver, a.DriverReason)
			}
			if f.json {
				return printJSON(cmd, a)
			}
			return print(cmd, "%s\n", a.Device)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&o.Driver, "driver", "auto", "auto, nbd or fuse")
	fl.StringVar(&o.MountDir, "mount", "", "mount the ext4 file system at this directory")
	fl.StringVar(&o.Clone, "clone", "", "make the volume first, as a clone of this `VOLUME@SNAPSHOT`; after an error it is gone")
	fl.BoolVar(&o.Mkfs, "mkfs", false, "make an ext4 file system if the volume is blank")
	fl.BoolVar(&o.ReadOnly, "read-only", false, "attach read-only; needed for a snapshot")
	fl.BoolVar(&o.Takeover, "takeover", false, "take the volume from the worker that has it; its writes fail from then on")
	fl.IntVar(&o.Connections, "connections", 0, "connections to the server (default: nbd 1, fuse 4); with more than one the kernel's nbd repeats a timed-out write without waiting for the server to fence the first")
	fl.BoolVar(&f.prefetch, "prefetch", os.Getenv("SLACKER_PREFETCH") != "false", "over distant links, fetch compressed and ahead what is read of a snapshot, and what an earlier start of a clone of it has read; needs the cache (also $SLACKER_PREFETCH)")
	fl.StringVar(&f.cacheDir, "cache-dir", os.Getenv("SLACKER_CACHE_DIR"), "where the fuse driver keeps what it has read of snapshots (also $SLACKER_CACHE_DIR; default "+worker.DefaultCacheDir+", or in a --state-dir of its own)")
	fl.StringVar(&f.cacheSize, "cache-size", os.Getenv("SLACKER_CACHE_SIZE"), "how much of that, for all attachments of this host; 0 keeps nothing (also $SLACKER_CACHE_SIZE; default "+humanize.IBytes(worker.DefaultCacheBytes)+")")
	fl.DurationVar(&f.requestTimeout, "request-timeout", worker.DefaultRequestTimeout, "when a connection that does not answer counts as dead")
	fl.DurationVar(&f.deadTimeout, "dead-timeout", worker.DefaultDeadTimeout, "how long I/O waits for a server that is away before it fails")
	return cmd
}

func detachCommand(f *flags) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "detach VOLUME|DEVICE|DIRECTORY",
		Short: "unmount and remove a device",
		Long: `detach unmounts, writes what is cached, removes the device and ends the
attachment at the server. It also removes what a killed attach left. With
--force it goes on past what is in use or does not answer; data that has not
reached the server is then lost.`,
		Example: `  slacker-client detach web1
  slacker-client detach /mnt/web1
  slacker-client detach /dev/loop3 --force`,
		Args: exactArgs("TARGET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := f.open(cmd)
			if err != nil {
				return err
			}
			target, err := w.Detach(cmd.Context(), args[0], force)
			if err != nil || !f.json {
				return err
			}
			return printJSON(cmd, map[string]string{"detached": target})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "go on past everything, and lose what is not written yet")
	return cmd
}

func listCommand(f *flags) *cobra.Command {
	var clean bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list what is attached here",
		Long: `list shows what is attached to this host, each entry checked against the
kernel and the server. What is stale was left by something that was killed, is of an
earlier boot of this host, or was taken over by another worker; --clean removes it, here
and at the server. It has status 13 when the server does not answer: run it again then.`,
		Example: "  slacker-client list --json\n  slacker-client list --clean",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			w, err := f.open(cmd)
			if err != nil {
				return err
			}
			if clean {
				cleaned, err := w.Clean(cmd.Context())
				for _, target := range cleaned {
					cmd.PrintErrf("removed what was left of %s\n", target)
				}
				if err != nil {
					return err
				}
			}
			rows, err := w.List(cmd.Context())
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(cmd, rows)
			}
			return printRows(cmd, rows)
		},
	}
	cmd.Flags().BoolVar(&clean, "clean", false, "remove what is stale")
	return cmd
}

func restartCommand(f *flags) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "restart VOLUME|DEVICE|DIRECTORY... | --all",
		Short: "replace the processes behind devices by ones of this program",
		Long: `restart replaces the process that serves or watches a device by one of the
program that is installed now, as after an upgrade. I/O waits for some
milliseconds and does not fail, what is in flight included. Where that cannot be
(the fuse driver on kernels before 6.9) the process goes on as it is.`,
		Example: "  slacker-client restart --all\n  slacker-client restart web1",
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return block.Errorf(block.Invalid, "restart takes targets or --all: see slacker-client restart --help")
			}
			w, err := f.open(cmd)
			if err != nil {
				return err
			}
			restarted, err := w.Restart(cmd.Context(), args)
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(cmd, restarted)
			}
			for _, r := range restarted {
				if err := print(cmd, "%s: process %d\n", r.Target, r.PID); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "everything that is attached here")
	return cmd
}

func printRows(cmd *cobra.Command, rows []worker.Row) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	line := func(cells ...string) { _, _ = t.Write([]byte(strings.Join(cells, "\t") + "\n")) } // into memory
	line("TARGET", "DEVICE", "DRIVER", "SIZE", "MODE", "MOUNTED", "STATE")
	for _, r := range rows {
		mode, state := "rw", r.Condition
		if r.ReadOnly {
			mode = "ro"
		}
		if r.Why != "" {
			state += " (" + r.Why + ")"
		}
		line(r.Target, dash(r.Device), dash(r.Driver), humanize.IBytes(r.SizeBytes), mode, dash(strings.Join(r.Mounts, ",")), state)
	}
	if err := t.Flush(); err != nil {
		return block.Errorf(block.IO, "print: %w", err)
	}
	return print(cmd, "%s", b.String())
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// agentCommands are the background processes that attach starts.
func agentCommands() []*cobra.Command {
	agent := func(name string, run func(worker.AgentArgs, *zap.Logger) error) *cobra.Command {
		return &cobra.Command{
			Use: name + " STATEDIR TARGET NONCE", Short: "background process of an attachment", Hidden: true,
			Args: exactArgs("STATEDIR", "TARGET", "NONCE"),
			RunE: func(_ *cobra.Command, args []string) error {
				logger, err := zap.NewProduction()
				if err != nil {
					return block.Errorf(block.Internal, "make a logger: %w", err)
				}
				return run(worker.AgentArgs{StateDir: args[0], Target: args[1], Nonce: args[2]}, logger)
			},
		}
	}
	return []*cobra.Command{agent(worker.AgentMonitor, worker.RunMonitor), agent(worker.AgentFuseDaemon, worker.RunFuseDaemon), agent(worker.AgentStandby, worker.RunStandby)}
}
