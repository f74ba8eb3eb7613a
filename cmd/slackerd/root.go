package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/config"
	"github.com/slackerd/slacker/cow"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// version is set by the build (-ldflags -X main.version=...).
var version = ""

// versionText is the version of the build, or what the Go toolchain noted.
func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

const exitHelp = "\nEXIT STATUS\n" + api.ExitStatusHelp

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "slackerd",
		Short: "Serve volumes, snapshots and clones over NBD",
		Long: "Slackerd is the storage server of Slacker. It keeps volumes and snapshots in one data directory, serves\n" +
			"them as network block devices, and is administered with slackerctl.\n" + exitHelp,
		Example:                    "  slackerd serve --data-dir /var/lib/slacker\n  slackerd config default > /etc/slacker/slackerd.yaml",
		SilenceErrors:              true,
		SilenceUsage:               true,
		DisableAutoGenTag:          true,
		SuggestionsMinimumDistance: 2,
		Args:                       noArgs,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return block.Errorf(block.Invalid, "%s: %w (see %s --help)", cmd.Name(), err, cmd.CommandPath())
	})
	root.AddCommand(newServe(), newConfig(), newCheck(), newSalvage(), newVersion(), newMan())
	return root
}

// noArgs refuses arguments, with a suggestion where a command was misspelt.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := "see " + cmd.CommandPath() + " --help"
	if s := cmd.SuggestionsFor(args[0]); cmd.HasSubCommands() && len(s) > 0 {
		hint = "did you mean " + s[0] + "?"
	}
	return block.Errorf(block.Invalid, "%s: unexpected argument %q: %s", cmd.CommandPath(), args[0], hint)
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		Long: "Version prints the version of the program, of the disk format it writes, and of Go.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "slackerd %s (format %d, %s, %s/%s)\n", versionText(), cow.FormatVersion,
				runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

func newMan() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write the manual pages into a directory", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return block.Errorf(block.IO, "man: %w", err)
			}
			header := &doc.GenManHeader{Section: "8", Source: "Slacker " + versionText(), Manual: "Slacker"}
			if err := doc.GenManTree(cmd.Root(), header, filepath.Clean(args[0])); err != nil {
				return block.Errorf(block.IO, "man: %w", err)
			}
			return nil
		},
	}
}

// addConfigFlags gives a command --config and the flags of the settings.
func addConfigFlags(cmd *cobra.Command) {
	cmd.Flags().String("config", "", "The configuration file (YAML); also "+config.FileEnv+". See slackerd config default.")
	config.AddFlags(cmd.Flags())
}

// loadConfig loads the configuration that a command's flags describe.
func loadConfig(cmd *cobra.Command) (*config.Loaded, error) {
	file, err := cmd.Flags().GetString("config")
	if err != nil {
		return nil, block.Errorf(block.Internal, "flag --config: %w", err)
	}
	if file == "" {
		file = os.Getenv(config.FileEnv)
	}
	return config.Load(file, cmd.Flags())
}
