// Command slacker-snapshotter is containerd's snapshotter on Slacker, a proxy
// plugin that containerd reaches over a unix socket.
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
		fmt.Fprintln(os.Stderr, "slacker-snapshotter:", err)
		os.Exit(api.ExitStatus(err))
	}
}
