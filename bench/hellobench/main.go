// Command hellobench is HelloBench, the paper's benchmark of container starts.
//
//	hellobench build [-push HOST:PORT] [IMAGE...]   build the image set from Debian packages
//	hellobench images [-json]                       list it, and say why others cannot be built
//	hellobench fetch [-registry HOST/PATH] IMAGE... take originals from a registry instead
//	hellobench pull, run, push, tag [-all] [IMAGE...]  the operations of the original
//	hellobench measure [IMAGE...]                   compare drivers
//	hellobench record                               make the whole record, step by step
//	hellobench space [IMAGE...]                     deduplication and compression of the image set
//	hellobench report                               write what was measured as JSON and a page
//
// Each has -help.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/slackerd/slacker/bench/hellobench/drive"
	"github.com/slackerd/slacker/suggest"
)

// commands are the sub-commands: each parses its own flags.
var commands = map[string]func(ctx context.Context, args []string) error{
	"build":   runBuild,
	"images":  runImages,
	"fetch":   runFetch,
	"pull":    operation("pull"),
	"run":     operation("run"),
	"push":    operation("push"),
	"tag":     operation("tag"),
	"measure": runMeasure,
	"record":  runRecord,
	"space":   runSpace,
	"report":  runReport,
}

func main() {
	drive.Enter()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hellobench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var names []string
	for name := range commands {
		names = append(names, name)
	}
	slices.Sort(names)
	if len(args) == 0 {
		return fmt.Errorf("want a command: %s", strings.Join(names, ", "))
	}
	command := commands[args[0]]
	if command == nil {
		return fmt.Errorf("want one of %s, got %q%s", strings.Join(names, ", "), args[0], didYouMean(args[0], names))
	}
	return command(ctx, args[1:])
}

func didYouMean(name string, names []string) string {
	if near := suggest.Nearest(name, names); near != "" {
		return fmt.Sprintf(" (did you mean %s?)", near)
	}
	return ""
}
