package main

import (
	"context"

	"github.com/slackerd/slacker/apiserver"
	"github.com/slackerd/slacker/check"
	"github.com/slackerd/slacker/gc"
	"github.com/slackerd/slacker/scrub"
	"github.com/slackerd/slacker/volume"
)

// upkeep is what the API can ask for that may take long. It ends when the
// server stops, so that stopping does not wait for it.
type upkeep struct {
	store     *volume.Store
	collector *gc.Collector
	scrubber  *scrub.Scrubber
	stopping  context.Context
}

var (
	_ apiserver.Checker   = upkeep{}
	_ apiserver.Collector = upkeep{}
	_ apiserver.Scrubber  = upkeep{}
)

// until returns ctx, which also ends when the server stops.
func (u upkeep) until(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(u.stopping, cancel)
	return ctx, func() { stop(); cancel() }
}

func (u upkeep) Check(ctx context.Context, data bool, progress func(done, total uint64, unit string)) ([]apiserver.Damage, error) {
	ctx, done := u.until(ctx)
	defer done()
	found, err := u.store.Check(ctx, data, progress)
	return toDamages(found), err
}

func (u upkeep) Collect(ctx context.Context, dryRun bool, progress func(step string, done, total uint64, unit string)) (uint64, []string, error) {
	ctx, done := u.until(ctx)
	defer done()
	return u.collector.Collect(ctx, dryRun, progress)
}

func (u upkeep) Garbage(ctx context.Context) (uint64, []apiserver.Orphan, error) {
	found, err := u.store.Orphans(ctx)
	if err != nil {
		return 0, nil, err
	}
	orphans := make([]apiserver.Orphan, len(found))
	for i, o := range found {
		orphans[i] = apiserver.Orphan(o)
	}
	bytes, _, err := u.collector.Collect(ctx, true, nil)
	return bytes, orphans, err
}

func (u upkeep) StartScrub(context.Context) error { return u.scrubber.Start() }

func (u upkeep) StopScrub(context.Context) error { return u.scrubber.Stop() }

func (u upkeep) ScrubState(context.Context) apiserver.ScrubState {
	s := u.scrubber.Status()
	return apiserver.ScrubState{Running: s.Running, Started: s.Started, Finished: s.Finished, DoneBlocks: s.Done, TotalBlocks: s.Total,
		Runs: s.Runs, Damage: toDamages(s.Damages), More: s.More, Problem: s.Problem}
}

// toDamages puts damages in the words of the API.
func toDamages(found []check.Damage) []apiserver.Damage {
	damages := make([]apiserver.Damage, len(found))
	for i, d := range found {
		damages[i] = apiserver.Damage(d)
	}
	return damages
}
