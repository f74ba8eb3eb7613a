package worker

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// restartLimit bounds the restart of one agent.
const restartLimit = 30 * time.Second

// Restarted tells of one agent that was started anew.
type Restarted struct {
	Target string `json:"target"`
	Driver string `json:"driver"`
	PID    int    `json:"pid"`
}

// Restart replaces the agents of what is attached by ones of the program as it
// is on disk now: those of the targets, devices or directories named, or of
// all. I/O waits for milliseconds and does not fail. An agent that cannot be
// replaced goes on as it is.
func (w *Worker) Restart(ctx context.Context, what []string) ([]Restarted, error) {
	if os.Geteuid() != 0 {
		return nil, block.Errorf(block.Permission, "restart agents: run as root (user id is %d)", os.Geteuid())
	}
	if err := w.store.init(); err != nil {
		return nil, err
	}
	targets := make([]string, len(what))
	for i, name := range what {
		target, err := w.resolve(name)
		if err != nil {
			return nil, err
		}
		targets[i] = target
	}
	var errs []error
	if len(what) == 0 {
		states, faults, err := w.store.all()
		if err != nil {
			return nil, err
		}
		errs = faults
		for _, s := range states {
			targets = append(targets, s.Target)
		}
	}
	restarted := []Restarted{}
	for _, target := range targets {
		r, err := w.restart(ctx, target)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		restarted = append(restarted, r)
	}
	return restarted, joinLine(errs...)
}

func (w *Worker) restart(ctx context.Context, target string) (Restarted, error) {
	unlock, err := w.store.lock(target)
	if err != nil {
		return Restarted{}, err
	}
	defer unlock()
	s, err := w.store.load(target)
	switch {
	case err != nil:
		return Restarted{}, err
	case s == nil || s.Phase != phaseAttached || w.earlierBoot(s):
		return Restarted{}, block.Errorf(block.NotFound, "restart: %s is not attached here", target)
	}
	// This starts an agent that is missing and may be started.
	if err := w.driver(s.Driver).healthy(ctx, s, w.Executable); err != nil {
		return Restarted{}, err
	}
	ag := agent{w.store, target}
	old := 0
	hasStandby := func() (bool, error) {
		pid, standby := ag.pids()
		old = pid
		return pid != 0 && standby != 0, nil
	}
	if err := awaitFor(ctx, restartLimit, hasStandby); err != nil {
		return Restarted{}, block.Errorf(block.Unsupported, "restart %s: its agent, process %d, has no standby that could take over: %w: %s", target, old, err, ag.lastWords())
	}
	if err := unix.Kill(old, unix.SIGHUP); err != nil {
		return Restarted{}, block.Errorf(block.Permission, "restart %s: process %d: %w", target, old, err)
	}
	now := 0
	replaced := func() (bool, error) {
		now = ag.pid()
		return now != 0 && now != old, nil
	}
	if err := awaitFor(ctx, restartLimit, replaced); err != nil {
		return Restarted{}, block.Errorf(block.Internal, "restart %s: process %d goes on: %w: %s", target, old, err, ag.lastWords())
	}
	return Restarted{Target: target, Driver: s.Driver, PID: now}, nil
}
