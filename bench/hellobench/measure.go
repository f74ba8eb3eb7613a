package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slackerd/slacker/bench/hellobench/drive"
	"github.com/slackerd/slacker/bench/hellobench/link"
	"github.com/slackerd/slacker/bench/hellobench/measure"
)

// plan is what to measure.
type plan struct {
	setup
	name     string
	what     []string
	rounds   int
	push     bool
	starts   []int
	scaled   []string // images that are started many times
	seconds  int
	prepared bool // only prepare
}

var whats = []string{"cycle", "scale", "longrun", "multimake"}

// measureCommand measures.
func measureCommand() *cobra.Command {
	var p plan
	cmd := &cobra.Command{
		Use:   "measure [IMAGE...]",
		Short: "measure images with several drivers over several links, by turns",
		Long: `Measure compares drivers, by turns in one run: all images of the registry when none is named.
What it measured is written down at once; started again with the same --name it goes on where it was.
The first time images are prepared (imported, converted), which takes longer than measuring them.

Drivers: overlayfs, stargz (containerd with these snapshotters), copy (the whole disk), qcow2 (backed by
qemu-nbd), slacker (clone, attach, chroot). Links: unlimited, 1g (1 Gbit/s, 0.5 ms), 100m (100 Mbit/s, 5 ms).
What: cycle (pull, run, run again, push), scale (many starts at once), longrun (throughput of servers),
multimake (a program built by several compiler versions).`,
		Example: "  hellobench measure --name full\n  hellobench measure --name small --links unlimited --drivers overlayfs,slacker redis gcc",
		RunE: func(cmd *cobra.Command, names []string) error {
			return p.run(cmd, names)
		},
	}
	f := cmd.Flags()
	p.flags(f)
	f.StringVar(&p.name, "name", "default", "`name` of the run")
	f.StringSliceVar(&p.drivers, "drivers", driverNames(), "`drivers` to compare")
	f.StringSliceVar(&p.links, "links", []string{"unlimited", "1g", "100m"}, "`links` between server and worker")
	f.StringSliceVar(&p.what, "what", whats, "`what` to measure")
	f.IntVar(&p.rounds, "rounds", 1, "how often")
	f.BoolVar(&p.push, "push", true, "measure pushes too")
	f.IntSliceVar(&p.starts, "starts", []int{1, 2, 4, 8, 16}, "how many starts at once, for scale")
	f.StringSliceVar(&p.scaled, "scale-images", []string{"redis", "python"}, "`images` for scale")
	f.IntVar(&p.seconds, "seconds", 10, "about how long each throughput is measured, for longrun")
	f.BoolVar(&p.prepared, "prepare-only", false, "prepare the images and measure nothing")
	return cmd
}

func (p *plan) run(cmd *cobra.Command, names []string) error {
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
	for n, spec := range specs {
		if err = p.over(cmd, spec, names, log, n == 0); err != nil {
			break
		}
	}
	return errors.Join(err, log.Close())
}

// over measures over one link. Throughput and compilers are measured over the first
// only: they say more of the disk than of the link.
func (p *plan) over(cmd *cobra.Command, spec link.Spec, names []string, log *measure.Log, first bool) (err error) {
	ctx, progress := cmd.Context(), cmd.ErrOrStderr()
	_, _ = fmt.Fprintf(progress, "hellobench: link: %s\n", spec)
	r, err := p.start(ctx, spec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	images, err := r.images(ctx, names)
	if err != nil {
		return err
	}
	if err := r.prepare(ctx, images, progress); err != nil {
		return err
	}
	s := &measure.Session{Bed: r.bed, Drivers: r.drivers, Images: images, Rounds: p.rounds, Push: p.push && first, Log: log, Progress: progress}
	if p.prepared {
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
	if err := r.prepare(ctx, s.Images, s.Progress); err != nil {
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
