// Command slacker-client is the worker side of Slacker: it makes volumes of a
// slackerd server into block devices of this host, and mounts them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/api"
)

// version is set by the build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := newRoot().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "slacker-client:", err)
		os.Exit(api.ExitStatus(err))
	}
}
