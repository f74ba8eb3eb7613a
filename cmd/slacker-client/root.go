package main

import (
	"cmp"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/certs"
	"github.com/slackerd/slacker/worker"
)

// flags are those that all commands share.
type flags struct {
	tls                          certs.Files
	server, stateDir, workerName string
	json, verbose                bool
	requestTimeout, deadTimeout  time.Duration
	cacheDir, cacheSize          string
	prefetch                     bool
}

func newRoot() *cobra.Command {
	f := &flags{}
	root := &cobra.Command{
		Use:   "slacker-client",
		Short: "make Slacker volumes into block devices of this host",
		Long: `slacker-client makes volumes and snapshots of a slackerd server into block
devices of this host, and mounts them. It needs root.

Exit status:
` + api.ExitStatusHelp,
		SilenceErrors: true, SilenceUsage: true,
		SuggestionsMinimumDistance: 2,
		Args:                       unknownCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	p := root.PersistentFlags()
	p.StringVar(&f.server, "server", cmp.Or(os.Getenv("SLACKER_SERVER"), api.DefaultAddr), "admin API: http://HOST:PORT or unix:///PATH (also $SLACKER_SERVER)")
	p.StringVar(&f.tls.CA, "tls-ca", os.Getenv("SLACKER_TLS_CA"), "`FILE` with the authority of the server's certificate ($SLACKER_TLS_CA)")
	p.StringVar(&f.tls.Cert, "tls-cert", os.Getenv("SLACKER_TLS_CERT"), "`FILE` with the own certificate ($SLACKER_TLS_CERT)")
	p.StringVar(&f.tls.Key, "tls-key", os.Getenv("SLACKER_TLS_KEY"), "`FILE` with its key ($SLACKER_TLS_KEY)")
	p.StringVar(&f.stateDir, "state-dir", worker.DefaultStateDir, "where this host's attachments are written down")
	p.StringVar(&f.workerName, "worker", "", "name of this host at the server (default: host name and machine id)")
	p.BoolVar(&f.json, "json", false, "print JSON")
	p.BoolVarP(&f.verbose, "verbose", "v", false, "print each step and how long it took, on standard error")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return block.Errorf(block.Invalid, "%w", err) })
	root.AddCommand(attachCommand(f), detachCommand(f), listCommand(f), restartCommand(f), metricsCommand(f), versionCommand(f), manCommand(root))
	root.AddCommand(agentCommands()...)
	return root
}

// open makes the worker that the flags describe.
func (f *flags) open(cmd *cobra.Command) (*worker.Worker, error) {
	c, err := worker.DefaultConfig()
	if err != nil {
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
	c.API, err = api.NewTLSClient(f.server, secure)
	if err != nil {
		return nil, err
	}
	c.Server, c.StateDir = f.server, f.stateDir
	c.Worker = cmp.Or(f.workerName, c.Worker)
	if err := c.SetCacheSize(f.cacheSize); err != nil {
		return nil, err
	}
	c.CacheDir, c.Prefetch = f.cacheDir, f.prefetch
	c.RequestTimeout = cmp.Or(f.requestTimeout, c.RequestTimeout)
	c.DeadTimeout = cmp.Or(f.deadTimeout, c.DeadTimeout)
	if f.verbose {
		c.Verbose = func(step string, took time.Duration) {
			cmd.PrintErrf("%9.3f ms  %s\n", float64(took.Microseconds())/1000, step)
		}
	}
	return worker.New(c)
}

// printJSON prints v as one indented document.
func printJSON(cmd *cobra.Command, v any) error {
	e := json.NewEncoder(cmd.OutOrStdout())
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return block.Errorf(block.IO, "print JSON: %w", err)
	}
	return nil
}

// print prints a line of a result; a full disk or closed pipe is an error.
func print(cmd *cobra.Command, format string, args ...any) error {
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), format, args...); err != nil {
		return block.Errorf(block.IO, "print: %w", err)
	}
	return nil
}

// unknownCommand refuses what is no command, and guesses what was meant.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := "see " + cmd.CommandPath() + " --help"
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return block.Errorf(block.Invalid, "unknown command %q: %s", args[0], hint)
}

// exactArgs is cobra.ExactArgs with an error of kind Invalid.
func exactArgs(want ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(want) {
			return block.Errorf(block.Invalid, "%s takes %d arguments %v, got %d: see %s --help", cmd.CommandPath(), len(want), want, len(args), cmd.CommandPath())
		}
		return nil
	}
}

func versionCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.json {
				return printJSON(cmd, map[string]string{"version": version})
			}
			return print(cmd, "slacker-client %s\n", version)
		},
	}
}

func manCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "man DIRECTORY", Short: "write the man pages into a directory", Hidden: true, Args: exactArgs("DIRECTORY"),
		RunE: func(_ *cobra.Command, args []string) error {
			root.DisableAutoGenTag = true
			header := &doc.GenManHeader{Title: "SLACKER-CLIENT", Section: "8", Source: "Slacker " + version, Date: &time.Time{}}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return block.Errorf(block.IO, "write man pages: %w", err)
			}
			return block.Wrap(block.IO, doc.GenManTree(root, header, args[0]), "write man pages")
		},
	}
}
