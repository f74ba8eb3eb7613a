package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slackerd/slacker/bench/hellobench/catalog"
	"github.com/slackerd/slacker/bench/hellobench/images"
	"github.com/slackerd/slacker/bench/hellobench/link"
	"github.com/slackerd/slacker/bench/hellobench/measure"
	"github.com/slackerd/slacker/stack"
)

// plan is what to measure.
type plan struct {
	setup
	names       []string // of images; none is all
	what        list
	rounds      int
	push        bool
	starts      []int
	scaled      list // images that are started many times
	slowImages  list // for the links after the first; empty is all
	slowDrivers list // likewise
	seconds     int
	prepareOnly bool
	until       time.Time
	progress    io.Writer
}

var whats = []string{"cycle", "scale", "longrun", "multimake"}

const measureUsage = `usage: hellobench measure [flags] [IMAGE...]

Measure compares drivers, by turns in one run: all images of the registry when none is named.
What it measured is written down at once; started again with the same -name it goes on where it was.
The first time images are prepared (imported, converted), which takes longer than measuring them.

Drivers: overlayfs, stargz, slacker-containerd (containerd with these snapshotters); without containers: copy
(the whole disk), qcow2 (backed by qemu-nbd), slacker (clone, attach, chroot). Links: unlimited, 1g (1 Gbit/s, 0.5 ms), 100m (100 Mbit/s, 5 ms).
What: cycle (pull, run, run again, push), scale (many starts at once), longrun (throughput of servers),
multimake (a program built by several compiler versions). Pushes and all but cycles are measured over the
first link only.

  hellobench measure -name full
  hellobench measure -name small -links unlimited -drivers overlayfs,slacker redis gcc
`

// runMeasure measures.
func runMeasure(ctx context.Context, args []string) error {
	p := plan{progress: os.Stderr}
	f := flag.NewFlagSet("measure", flag.ContinueOnError)
	f.Usage = func() {
		_, _ = fmt.Fprint(f.Output(), measureUsage)
		f.PrintDefaults()
	}
	p.flags(f)
	name := f.String("name", "default", "`name` of the run")
	budget := f.Duration("budget", 0, "begin no measurement after this `time`; what is left is measured when it is started again")
	var starts list
	listVar(f, &p.drivers, "drivers", driverNames(), "`drivers` to compare")
	listVar(f, &p.links, "links", []string{"unlimited", "1g", "100m"}, "`links` between server and worker")
	listVar(f, &p.what, "what", whats, "`what` to measure")
	f.IntVar(&p.rounds, "rounds", 1, "how often")
	f.BoolVar(&p.push, "push", true, "measure pushes too")
	listVar(f, &starts, "starts", []string{"1", "2", "4", "8", "16"}, "how `many` starts at once, for scale")
	listVar(f, &p.scaled, "scale-images", []string{"redis", "python"}, "`images` for scale")
	listVar(f, &p.slowImages, "slow-images", nil, "`images` for the links after the first (default: all)")
	listVar(f, &p.slowDrivers, "slow-drivers", nil, "`drivers` for the links after the first (default: all)")
	f.IntVar(&p.seconds, "seconds", 10, "about how long each throughput is measured, for longrun")
	f.BoolVar(&p.prepareOnly, "prepare-only", false, "prepare the images and measure nothing")
	if err := f.Parse(args); err != nil {
		return err
	}
	for _, n := range starts {
		v, err := strconv.Atoi(n)
		if err != nil || v < 1 {
			return fmt.Errorf("want numbers of starts above 0, got %q", n)
		}
		p.starts = append(p.starts, v)
	}
	p.names = f.Args()
	if *budget > 0 {
		p.until = time.Now().Add(*budget)
	}
	return withRun(ctx, p.cache, *name, &p.setup, p.progress, func(log *measure.Log) error {
		err := p.run(ctx, log)
		if errors.Is(err, measure.ErrTime) {
			_, err = fmt.Fprintln(p.progress, "hellobench: the time is over: start it again to measure the rest")
		}
		return err
	})
}

// withRun opens the log of a run, says what measures, and brings what was built into
// the registry.
func withRun(ctx context.Context, cache, name string, s *setup, progress io.Writer, measured func(*measure.Log) error) (err error) {
	dir := runDir(cache, name)
	log, err := measure.OpenLog(filepath.Join(dir, "records.jsonl"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	if err := note(ctx, dir, s); err != nil {
		return err
	}
	if err := pushBuilt(ctx, cache, progress); err != nil {
		return err
	}
	return measured(log)
}

func (p *plan) run(ctx context.Context, log *measure.Log) error {
	specs, err := p.specs()
	if err != nil {
		return err
	}
	for _, w := range p.what {
		if !slices.Contains(whats, w) {
			return fmt.Errorf("want what of %s, got %q", strings.Join(whats, ", "), w)
		}
	}
	p.slots = slices.Max(append([]int{2}, p.starts...))
	for n, spec := range specs {
		if err := p.over(ctx, spec, log, n == 0); err != nil {
			return err
		}
	}
	return nil
}

// at is the plan for one link: what differs for those after the first is in it.
func (p *plan) at(first bool) plan {
	q := *p
	if first {
		return q
	}
	if len(q.names) == 0 {
		q.names = q.slowImages
	}
	if len(q.slowDrivers) > 0 {
		q.drivers = q.slowDrivers
	}
	q.push, q.what = false, slices.DeleteFunc(slices.Clone(q.what), func(w string) bool { return w != "cycle" })
	return q
}

// matrices are what is measured over one link. Throughput and compilers are of the
// first only: they say more of the disk than of the link.
func (p *plan) matrices(link string, images []string) []measure.Matrix {
	var all []measure.Matrix
	for _, w := range p.what {
		m := measure.Matrix{Kind: measure.Kind(w), Link: link, Images: images, Drivers: p.drivers, Rounds: p.rounds, Starts: p.starts}
		switch m.Kind {
		case measure.Scale:
			m.Images = slices.DeleteFunc(slices.Clone(images), func(name string) bool { return !slices.Contains(p.scaled, name) })
		case measure.MultiMake:
			// The paper's question is one of containers; the other drivers would need
			// copies of all compilers.
			m.Images = compilers
			m.Drivers = slices.DeleteFunc(slices.Clone(p.drivers), func(d string) bool { return d == "copy" || d == "qcow2" })
		}
		all = append(all, m)
	}
	return all
}

// over measures over one link.
func (p *plan) over(ctx context.Context, spec link.Spec, log *measure.Log, first bool) (err error) {
	q := p.at(first)
	_, _ = fmt.Fprintf(p.progress, "hellobench: link: %s\n", spec)
	r, err := q.start(ctx, spec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	found, err := r.images(ctx, q.names)
	if err != nil {
		return err
	}
	if err := prepare(ctx, r.bed.Cache, r.drivers, found, p.progress); err != nil || p.prepareOnly {
		return err
	}
	s := &measure.Session{Bed: r.bed, Drivers: r.drivers, Images: found, Push: q.push, Seconds: p.seconds, Until: p.until, Log: log, Progress: p.progress}
	for _, m := range q.matrices(spec.Name, namesOf(found)) {
		if m.Kind == measure.MultiMake {
			if err := r.addCompilers(ctx, s, &m, p.progress); err != nil {
				return err
			}
		}
		if err := s.Measure(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// compilers are images of one compiler in several versions.
var compilers = []string{"gcc:9", "gcc:10", "gcc:11", "gcc:12", "gcc:13", "gcc:14"}

// addCompilers adds those that are there to a session.
func (r *rig) addCompilers(ctx context.Context, s *measure.Session, m *measure.Matrix, progress io.Writer) error {
	m.Images = nil
	for _, name := range compilers {
		if i, err := r.lookup(ctx, name); err == nil {
			s.Images, m.Images = append(s.Images, i), append(m.Images, name)
			if err := prepare(ctx, r.bed.Cache, r.named(m.Drivers), s.Images[len(s.Images)-1:], progress); err != nil {
				return err
			}
		}
	}
	return nil
}

// known are the images that a plan will measure over a link, as far as that can be
// said without a registry: those that were built or fetched.
func (p *plan) known(built []string) []string {
	if len(p.names) > 0 {
		return p.names
	}
	var names []string
	for _, i := range catalog.All() {
		if slices.Contains(built, i.Name) {
			names = append(names, i.Name)
		}
	}
	return names
}

// builtNames are the images that were built here, or fetched.
func builtNames(cache string) ([]string, error) {
	names := originals(cache)
	states, err := images.States(cache)
	for _, s := range states {
		if s.Built != nil {
			names = append(names, s.Image.Name)
		}
	}
	return names, err
}

// pushBuilt brings what was built into the registry.
func pushBuilt(ctx context.Context, cache string, progress io.Writer) (err error) {
	states, err := images.States(cache)
	if err != nil {
		return err
	}
	var recipes []*images.Recipe
	for _, s := range states {
		if s.Built != nil && !isOriginal(cache, s.Image.Name) {
			recipes = append(recipes, s.Recipe)
		}
	}
	if len(recipes) == 0 {
		return nil
	}
	programs, err := stack.FindPrograms()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "hbpush")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	storage, err := filepath.Abs(filepath.Join(cache, "registry"))
	if err != nil {
		return err
	}
	r, err := stack.StartRegistry(ctx, stack.RegistryOptions{Programs: programs, Dir: dir, Storage: storage})
	if err != nil {
		return err
	}
	defer r.Stop()
	return images.Push(ctx, images.PushOptions{Dir: cache, Recipes: recipes, Registry: r.Addr(), Blob: r.Blob, Progress: progress})
}
