// Command slackerctl administers a Slacker server: volumes, snapshots, clones,
// images, attachments and upkeep, over the admin API (package api).
//
// Nouns:
//
//   - app: one run of the program, with its streams and its way to the server.
//   - noun: what a command is about; each has a file of its name.
//
// Invariants:
//
//  1. Standard output holds the answer and nothing else; progress, prompts and
//     errors go to standard error. With --json the answer is one JSON object
//     whose fields are never renamed or removed and whose arrays are never null.
//  2. An error is one line, and the exit status tells its kind: api.ExitStatus.
//  3. Nothing is printed as done before the server has said so.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(newApp().run(ctx, os.Args[1:]))
}
