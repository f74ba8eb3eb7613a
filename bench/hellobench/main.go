// Command hellobench is HelloBench, the benchmark of container starts of Harter et
// al., "Slacker" (FAST 2016): see its sub-commands.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/slackerd/slacker/bench/hellobench/drive"
)

func main() {
	drive.Enter()
	root := &cobra.Command{
		Use:           "hellobench",
		Short:         "run HelloBench, the benchmark of container starts",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(buildCommand(), imagesCommand(), measureCommand(), opCommand("pull"), opCommand("run"), opCommand("push"), opCommand("tag"), fetchCommand(), spaceCommand(), reportCommand())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "hellobench:", err)
		os.Exit(1)
	}
}
