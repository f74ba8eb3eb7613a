package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slackerd/slacker/bench/hellobench/measure"
	"github.com/slackerd/slacker/bench/hellobench/report"
)

const recordUsage = `usage: hellobench record [flags]

Record makes the measurements of the report that is kept, step by step:

  cycles     all images, all drivers, unlimited link; with pushes
  1g, 100m   some images of all categories over the slow links
  scale      1 to 16 starts at once of three images
  longrun    throughput of three servers
  multimake  a program built by several compiler versions
  rounds     two more rounds of some images, unlimited link

What a run of this name has measured already is not measured again. With -budget each step gets its part of the
time, and what a step leaves over goes to those after it; what was not reached is left for another start. The
images are prepared first, unless they are (make hellobench-prepare), which is not counted.

  hellobench record -name full -budget 40m
  hellobench record -name full -steps scale,longrun
`

// step is a part of the record.
type step struct {
	name string
	part float64 // of the budget; what its measurements took in minutes on two cores
	plan plan
}

// Images of the steps that are not of all: every category is there.
var (
	slowImages  = []string{"debian", "redis", "postgres", "gcc", "python", "httpd", "django", "rabbitmq", "registry"}
	roundImages = []string{"debian", "redis", "postgres", "golang", "python", "nginx", "node", "registry"}
)

// steps are all of the record, in order.
func steps(s setup) []step {
	base := plan{setup: s, rounds: 1, starts: []int{1, 2, 4, 8, 16}, scaled: list{"redis", "python", "postgres"}, seconds: 5, progress: os.Stderr}
	of := func(name string, part float64, link, what string, names []string, without ...string) step {
		p := base
		p.links, p.what, p.names = list{link}, list{what}, names
		p.drivers = slices.DeleteFunc(driverNames(), func(d string) bool { return slices.Contains(without, d) })
		return step{name, part, p}
	}
	cycles := of("cycles", 20, "unlimited", "cycle", nil)
	cycles.plan.push = true
	rounds := of("rounds", 4, "unlimited", "cycle", roundImages)
	rounds.plan.push, rounds.plan.rounds = true, 3
	return []step{
		cycles,
		of("1g", 3, "1g", "cycle", slowImages),
		// A copy of a gigabyte takes a minute and a half there, and says no more than 1g does.
		of("100m", 5, "100m", "cycle", slowImages, "copy"),
		of("scale", 5, "unlimited", "scale", base.scaled, "copy"),
		of("longrun", 3, "unlimited", "longrun", measure.LongRunImages(), "copy"),
		of("multimake", 2, "unlimited", "multimake", []string{"gcc:12"}, "copy", "qcow2"),
		rounds,
	}
}

// runRecord makes the record.
func runRecord(ctx context.Context, args []string) error {
	var s setup
	f := flag.NewFlagSet("record", flag.ContinueOnError)
	f.Usage = func() {
		_, _ = fmt.Fprint(f.Output(), recordUsage)
		f.PrintDefaults()
	}
	s.flags(f)
	name := f.String("name", "full", "`name` of the run")
	budget := f.Duration("budget", 0, "begin no measurement after this `time`; 0 is no limit")
	like := f.String("like", "bench/results/hellobench.json", "an earlier `report`, to say how long it will take")
	var only list
	listVar(f, &only, "steps", nil, "the `steps` to make (default: all)")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("record: want no arguments, got %q", f.Args())
	}
	all, err := chosen(steps(s), only)
	if err != nil {
		return err
	}
	return withRun(ctx, s.cache, *name, &s, os.Stderr, func(log *measure.Log) error {
		r := recording{steps: all, log: log, known: append(earlier(*like), log.Records()...), progress: os.Stderr}
		if r.built, err = builtNames(s.cache); err != nil {
			return err
		}
		return r.run(ctx, *budget)
	})
}

// chosen are the steps of the names, all when there are none.
func chosen(all []step, names []string) ([]step, error) {
	var some []step
	known := ""
	for _, s := range all {
		known += " " + s.name
		if len(names) == 0 || slices.Contains(names, s.name) {
			some = append(some, s)
		}
	}
	for _, n := range names {
		if !slices.ContainsFunc(some, func(s step) bool { return s.name == n }) {
			return nil, fmt.Errorf("want steps of%s, got %q", known, n)
		}
	}
	return some, nil
}

// earlier are the records of a report, if it is there.
func earlier(path string) []measure.Record {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil // only an estimate is made of them
	}
	var d report.Data
	if json.Unmarshal(b, &d) != nil {
		return nil
	}
	return d.Records
}

// recording makes steps one after the other.
type recording struct {
	steps    []step
	log      *measure.Log
	built    []string
	known    []measure.Record // of what is known how long it takes
	progress io.Writer
}

// missing are the measurements of a step that the log has not.
func (r *recording) missing(s step) []measure.Record {
	var all []measure.Record
	for _, link := range s.plan.links {
		for _, m := range s.plan.matrices(link, s.plan.known(r.built)) {
			all = append(all, m.Records()...)
		}
	}
	return slices.DeleteFunc(r.log.Missing(all), func(m measure.Record) bool { return !slices.Contains(r.built, m.Image) })
}

// there are those of the names that were built: a set that is not whole is measured
// as far as it goes.
func (r *recording) there(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !slices.Contains(r.built, n) })
}

// run makes what is missing, within the budget. What a step did not reach is tried
// once more when the others have left time for it.
func (r *recording) run(ctx context.Context, budget time.Duration) error {
	started := time.Now()
	r.expect(budget)
	var errs []error
	for pass := range 2 {
		if pass > 0 && (budget == 0 || time.Since(started) > budget || len(errs) > 0) {
			break
		}
		for n, s := range r.steps {
			if budget > 0 {
				now := time.Now()
				s.plan.until = now.Add(share(r.wanting(r.steps[n:]), started.Add(budget).Sub(now)))
			}
			err := r.make(ctx, s)
			if ctx.Err() != nil {
				return fmt.Errorf("step %s: %w", s.name, err)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("step %s: %w", s.name, err)) // the others do not need it
				_, _ = fmt.Fprintf(r.progress, "hellobench: %v\n", errs[len(errs)-1])
			}
		}
	}
	return errors.Join(append(errs, r.say(time.Since(started)))...)
}

// make makes what is missing of a step.
func (r *recording) make(ctx context.Context, s step) error {
	todo, there := r.missing(s), r.there(s.plan.names)
	if len(todo) == 0 || len(there) == 0 && len(s.plan.names) > 0 {
		return nil
	}
	s.plan.names = there
	_, _ = fmt.Fprintf(r.progress, "hellobench: step %s: %d measurements\n", s.name, len(todo))
	if err := s.plan.run(ctx, r.log); err != nil && !errors.Is(err, measure.ErrTime) {
		return err
	}
	return nil
}

// wanting are the first of the steps, and those after it of which something is
// missing: they share the time that is left.
func (r *recording) wanting(steps []step) []step {
	some := steps[:1:1]
	for _, s := range steps[1:] {
		if len(r.missing(s)) > 0 {
			some = append(some, s)
		}
	}
	return some
}

// share is the part of the time that is left which the first of the steps gets.
func share(left []step, rest time.Duration) time.Duration {
	sum := 0.0
	for _, s := range left {
		sum += s.part
	}
	return time.Duration(float64(max(0, rest)) * left[0].part / sum)
}

// expect says how long it will take.
func (r *recording) expect(budget time.Duration) {
	var all []measure.Record
	for _, s := range r.steps {
		todo := r.missing(s)
		all = append(all, todo...)
		_, _ = fmt.Fprintf(r.progress, "hellobench: step %-10s %4d measurements, about %v\n", s.name, len(todo), measure.Expected(todo, r.known).Round(time.Second))
	}
	limit := "no limit"
	if budget > 0 {
		limit = "a limit of " + budget.String()
	}
	_, _ = fmt.Fprintf(r.progress, "hellobench: %d measurements, about %v, with %s\n", len(all), measure.Expected(all, r.known).Round(time.Second), limit)
}

// say tells what was made and what is left.
func (r *recording) say(took time.Duration) error {
	left := 0
	var of []string
	for _, s := range r.steps {
		if n := len(r.missing(s)); n > 0 {
			left += n
			of = append(of, fmt.Sprintf("%s %d", s.name, n))
		}
	}
	if left == 0 {
		_, err := fmt.Fprintf(r.progress, "hellobench: the record is whole, in %v\n", took.Round(time.Second))
		return err
	}
	_, err := fmt.Fprintf(r.progress, "hellobench: %d measurements are left after %v (%s): start it again to make them\n", left, took.Round(time.Second), strings.Join(of, ", "))
	return err
}

// runDir is the directory of a run.
func runDir(cache, name string) string { return filepath.Join(cache, "runs", name) }
