package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/certs"
	"github.com/slackerd/slacker/image"
)

// serverEnv names the server where --server does not.
const serverEnv = "SLACKER_SERVER"

// app is one run of the program. Tests replace what reaches outside.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	// terminal tells whether a stream is one that a person looks at.
	terminal func(stream any) bool
	location *time.Location // of the times in tables

	importImage  func(context.Context, image.ImportOptions) (image.Result, error)
	exportImage  func(context.Context, image.ExportOptions) (image.Result, error)
	exportLayers func(context.Context, image.LayersOptions) (image.Result, error)

	server      string
	tls         certs.Files
	json, quiet bool
}

func newApp() *app {
	return &app{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv,
		terminal: isTerminal, location: time.Local,
		importImage: image.Import, exportImage: image.Export, exportLayers: image.ExportLayers,
	}
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) //nolint:gosec // a file descriptor is an int
}

// run runs the command that args name and returns the exit status.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var kinded *block.Error
	if !errors.As(err, &kinded) { // of the command line's parser
		err = &block.Error{Kind: block.Invalid, Text: err.Error(), Err: err}
	}
	_, _ = fmt.Fprintf(a.stderr, "slackerctl: %s\n", oneLine(err.Error())) // there is nowhere else to say so
	return api.ExitStatus(err)
}

// oneLine keeps what others wrote from breaking lines or steering a terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "slackerctl",
		Short: "Administer a Slacker server",
		Long: `slackerctl administers a Slacker server: it makes, lists and deletes volumes,
snapshots and clones, imports and exports images, and looks after the store.

A volume is a writable block device, a snapshot (written VOLUME@SNAPSHOT) is an
immutable state of one, and a clone is a volume that starts as a snapshot.`,
		Example: `  slackerctl image import debian.qcow2 debian@v1
  slackerctl clone debian@v1 web
  slackerctl volume list --json
  SLACKER_SERVER=unix:///run/slacker/api.sock slackerctl status`,
		Args:          cobra.ArbitraryArgs,
		RunE:          a.group(true),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	flags := root.PersistentFlags()
	flags.StringVar(&a.server, "server", cmp.Or(a.getenv(serverEnv), api.DefaultAddr),
		"`address` of the server: http://HOST:PORT, tcp://HOST:PORT or\nunix:///PATH; $"+serverEnv+" sets the default")
	flags.Lookup("server").DefValue = api.DefaultAddr
	flags.StringVar(&a.tls.CA, "tls-ca", a.getenv("SLACKER_TLS_CA"), "`FILE` with the authority of the server's certificate; $SLACKER_TLS_CA")
	flags.StringVar(&a.tls.Cert, "tls-cert", a.getenv("SLACKER_TLS_CERT"), "`FILE` with the own certificate; $SLACKER_TLS_CERT")
	flags.StringVar(&a.tls.Key, "tls-key", a.getenv("SLACKER_TLS_KEY"), "`FILE` with its key; $SLACKER_TLS_KEY")
	flags.BoolVar(&a.json, "json", false, "answer with one JSON object, for programs")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "no progress and no confirmations")
	root.AddCommand(a.volume(), a.snapshot(), a.clone(), a.image(), a.attachment(), a.certs(),
		a.status(), a.serverNoun(), a.top(), a.check(), a.scrub(), a.gc(), a.version(), a.completion(), a.man())
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(a.help())
	root.SetHelpTemplate(`{{with or .Long .Short}}{{. | trimTrailingWhitespaces}}{{end}}

{{.UsageString}}
EXIT STATUS
` + api.ExitStatusHelp + "\n")
	return root
}

// client returns a client of the server that the command line names.
func (a *app) client() (slackerv1connect.AdminServiceClient, error) {
	return api.NewTLSClient(a.server, a.secure())
}

// secure gives the TLS configuration of connections, nil without TLS.
func (a *app) secure() func() (*tls.Config, error) {
	if a.tls.Empty() {
		return nil
	}
	return a.tls.Client
}

// snapshotClient is client for a command on target, VOLUME@SNAPSHOT, which it
// splits.
func (a *app) snapshotClient(target string) (volume, snapshot string, client slackerv1connect.AdminServiceClient, err error) {
	if volume, snapshot, err = block.SplitSnapshot(target); err == nil {
		client, err = a.client()
	}
	return volume, snapshot, client, err
}

func (a *app) help() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about a command",
		Long:  "help explains a command, as COMMAND --help does.",
		Example: `  slackerctl help
  slackerctl help volume create`,
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return block.Errorf(block.Invalid, "help: no command %q: see slackerctl --help", strings.Join(args, " "))
			}
			return found.Help()
		},
	}
}
