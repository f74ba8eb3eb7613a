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

	"github.com/slackerd/slacker/bench/hellobench/drive"
	"github.com/slackerd/slacker/bench/hellobench/images"
	"github.com/slackerd/slacker/bench/hellobench/link"
	"github.com/slackerd/slacker/bench/hellobench/measure"
	"github.com/slackerd/slacker/stack"
)

// plan is what to measure.
type plan struct {
	setup
	name        string
	what        list
	rounds      int
	push        bool
	startsFlag  list
	starts      []int
	scaled      list // images that are started many times
	slowImages  list // for the links after the first; empty is all
	slowDrivers list // likewise
	seconds     int
	prepareOnly bool
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
	f.StringVar(&p.name, "name", "default", "`name` of the run")
	listVar(f, &p.drivers, "drivers", driverNames(), "`drivers` to compare")
	listVar(f, &p.links, "links", []string{"unlimited", "1g", "100m"}, "`links` between server and worker")
	listVar(f, &p.what, "what", whats, "`what` to measure")
	f.IntVar(&p.rounds, "rounds", 1, "how often")
	f.BoolVar(&p.push, "push", true, "measure pushes too")
	listVar(f, &p.startsFlag, "starts", []string{"1", "2", "4", "8", "16"}, "how `many` starts at once, for scale")
	listVar(f, &p.scaled, "scale-images", []string{"redis", "python"}, "`images` for scale")
	listVar(f, &p.slowImages, "slow-images", nil, "`images` for the links after the first (default: all)")
	listVar(f, &p.slowDrivers, "slow-drivers", nil, "`drivers` for the links after the first (default: all)")
	f.IntVar(&p.seconds, "seconds", 10, "about how long each throughput is measured, for longrun")
	f.BoolVar(&p.prepareOnly, "prepare-only", false, "prepare the images and measure nothing")
	if err := f.Parse(args); err != nil {
		return err
	}
	for _, n := range p.startsFlag {
		v, err := strconv.Atoi(n)
		if err != nil || v < 1 {
			return fmt.Errorf("want numbers of starts above 0, got %q", n)
		}
		p.starts = append(p.starts, v)
	}
	return p.run(ctx, f.Args())
}

func (p *plan) run(ctx context.Context, names []string) error {
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
	log, err := measure.OpenLog(filepath.Join(p.cache, "runs", p.name, "records.jsonl"))
	if err != nil {
		return err
	}
	if err := p.pushBuilt(ctx); err != nil {
		return errors.Join(err, log.Close())
	}
	for n, spec := range specs {
		if err = p.over(ctx, spec, names, log, n == 0); err != nil {
			break
		}
	}
	return errors.Join(err, log.Close())
}

// over measures over one link. Throughput and compilers are measured over the first
// only: they say more of the disk than of the link.
func (p *plan) over(ctx context.Context, spec link.Spec, names []string, log *measure.Log, first bool) (err error) {
	_, _ = fmt.Fprintf(p.progress, "hellobench: link: %s\n", spec)
	if !first && len(names) == 0 {
		names = p.slowImages
	}
	if !first && len(p.slowDrivers) > 0 {
		p.drivers = p.slowDrivers
	}
	r, err := p.start(ctx, spec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	images, err := r.images(ctx, names)
	if err != nil {
		return err
	}
	if err := prepare(ctx, r.drivers, images, p.progress); err != nil {
		return err
	}
	s := &measure.Session{Bed: r.bed, Drivers: r.drivers, Images: images, Rounds: p.rounds, Push: p.push && first, Log: log, Progress: p.progress}
	if p.prepareOnly {
		return nil
	}
	if slices.Contains(p.what, "cycle") {
		if err := s.Cycles(ctx); err != nil {
			return err
		}
	}
	if !first {
		return nil
	}
	return p.extras(ctx, r, s)
}

func (p *plan) extras(ctx context.Context, r *rig, s *measure.Session) error {
	all := s.Images
	if slices.Contains(p.what, "scale") {
		s.Images = only(all, p.scaled)
		if err := s.Scales(ctx, p.starts); err != nil {
			return err
		}
	}
	s.Images = all
	if slices.Contains(p.what, "longrun") {
		if err := s.LongRuns(ctx, p.seconds); err != nil {
			return err
		}
	}
	if !slices.Contains(p.what, "multimake") {
		return nil
	}
	s.Images = nil
	for _, name := range compilers {
		if i, err := r.lookup(ctx, name); err == nil {
			s.Images = append(s.Images, i)
		}
	}
	if len(s.Images) == 0 {
		return nil
	}
	// The paper's question is one of containers; the other drivers would need copies
	// of all compilers.
	s.Drivers = slices.DeleteFunc(slices.Clone(s.Drivers), func(d drive.Driver) bool { return d.Name() == "copy" || d.Name() == "qcow2" })
	if err := prepare(ctx, s.Drivers, s.Images, s.Progress); err != nil {
		return err
	}
	return s.MultiMakes(ctx)
}

// compilers are images of one compiler in several versions.
var compilers = []string{"gcc:9", "gcc:10", "gcc:11", "gcc:12", "gcc:13", "gcc:14"}

func only(all []drive.Image, names []string) []drive.Image {
	var some []drive.Image
	for _, i := range all {
		if slices.Contains(names, i.Name) {
			some = append(some, i)
		}
	}
	return some
}

// pushBuilt brings what was built into the registry.
func (p *plan) pushBuilt(ctx context.Context) (err error) {
	states, err := images.States(p.cache)
	if err != nil {
		return err
	}
	var recipes []*images.Recipe
	for _, s := range states {
		if s.Built != nil && !isOriginal(p.cache, s.Image.Name) {
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
	storage, err := filepath.Abs(filepath.Join(p.cache, "registry"))
	if err != nil {
		return err
	}
	r, err := stack.StartRegistry(ctx, stack.RegistryOptions{Programs: programs, Dir: dir, Storage: storage})
	if err != nil {
		return err
	}
	defer r.Stop()
	return images.Push(ctx, images.PushOptions{Dir: p.cache, Recipes: recipes, Registry: r.Addr(), Progress: p.progress})
}
