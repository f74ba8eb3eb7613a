// Slackerd is the storage server of Slacker: it serves volumes and snapshots
// over NBD, and the admin API that makes, clones and deletes them.
//
// The work is done by the packages that this one wires together: config says
// how, volume is the store, gc gives space back, nbdserver and api face the
// network. What is here is the life of the process: the sockets, the service
// manager, metrics, the order of starting and stopping.
//
// Invariants:
//
//	D1  The server is ready (sd_notify, /readyz) only when the store is open and
//	    every socket accepts connections.
//	D2  Stopping is in order: no new connections, then commands in flight are
//	    answered, then the store is closed; all within a bounded time. A stop
//	    without all that (SIGKILL) loses nothing that was flushed.
//	D4  An upgrade (SIGUSR2) happens within one process, so that at no moment two
//	    programs have the store, and leaves on disk at every step what a kill would
//	    leave (volume's V10). A new program that fails to start costs the
//	    connections and nothing that was answered.
//	D3  A socket file is removed only if nobody answers on it.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/config"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run executes a command line and returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	cmd := newRoot()
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.Execute()
	if err == nil {
		return 0
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		prefix := "slackerd: "
		var faults config.Faults
		if errors.As(err, &faults) {
			prefix += "configuration: "
		}
		if _, err := fmt.Fprintln(stderr, prefix+line); err != nil {
			return 1
		}
	}
	return api.ExitStatus(err)
}
