package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/image"
)

// defaultGone is how long nothing is heard of a worker that is gone for good.
const defaultGone = 30 * 24 * time.Hour

func (a *app) imageWorkers() *cobra.Command {
	o := image.WorkersOptions{}
	var gone time.Duration
	cmd := &cobra.Command{
		Use:   "workers [--gone DURATION] [--release] [--prefix PREFIX]",
		Short: "List the workers that keep layers of container images, and release those of workers that are gone",
		Long: `workers lists the workers with slacker-snapshotter, when the server last heard of
each, and how many layers it keeps from image prune. A snapshotter lets the server
hear of it every hour; one of an older version does not, and never counts as gone.

With --release those that were not heard of for a time keep nothing any more: their
pins are deleted, and volumes that hold nothing of their own. What containers have
written stays (slackerctl volume rm deletes it). It counts as a use of the layers, so
that image prune takes them only after its own time (--unused, which should be an hour
or more); a worker that comes back meanwhile keeps what it has.`,
		Example: `  slackerctl image workers
  slackerctl image workers --gone 2160h --release`,
		Args:                  wantArgs(0, 0),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if gone < 0 {
				return block.Errorf(block.Invalid, "gone %v: want a time of 0 or more", gone)
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			o.Client, o.Since = client, time.Now().Add(-gone)
			stores, err := image.Workers(cmd.Context(), o)
			if err != nil {
				return a.failed(cmd.Context(), err, "")
			}
			return a.workers(stores)
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&gone, "gone", defaultGone, "for how long nothing was heard of a worker that is gone, for example 2160h")
	flags.BoolVar(&o.Release, "release", false, "release the layers of workers that are gone")
	prefixFlag(flags, &o.Prefix)
	return cmd
}

type workerStoreJSON struct {
	Worker    string `json:"worker"`
	Store     string `json:"store"`
	LastHeard string `json:"last_heard,omitempty"` // not there: it does not say
	Gone      bool   `json:"gone"`
	Empty     int    `json:"empty_volumes"` // pins, nearly all
	Others    int    `json:"other_volumes"`
	Released  int    `json:"released"`
}

func (a *app) workers(stores []image.WorkerStore) error {
	out := list(stores, func(w image.WorkerStore) workerStoreJSON {
		j := workerStoreJSON{Worker: w.Worker, Store: w.Store, Gone: w.Gone, Empty: w.Empty, Others: w.Others, Released: w.Released}
		if !w.LastHeard.IsZero() {
			j.LastHeard = w.LastHeard.UTC().Format(time.RFC3339)
		}
		return j
	})
	return a.answer(out, func(w io.Writer) {
		line(w, "WORKER", "STORE", "LAST HEARD", "KEEPS", "OTHER VOLUMES", "")
		for _, j := range out {
			heard, state := j.LastHeard, ""
			if heard == "" {
				heard = "never says"
			}
			switch {
			case j.Released > 0:
				state = fmt.Sprintf("gone, released %d", j.Released)
			case j.Gone:
				state = "gone"
			}
			line(w, j.Worker, j.Store, heard, fmt.Sprint(j.Empty), fmt.Sprint(j.Others), state)
		}
	})
}
