package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/slackerd/slacker/bench/hellobench/catalog"
	"github.com/slackerd/slacker/bench/hellobench/drive"
	"github.com/slackerd/slacker/bench/hellobench/link"
)

// operation is one of the operations of the original HelloBench.
func operation(op string) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) (err error) {
		var s setup
		f := flag.NewFlagSet(op, flag.ContinueOnError)
		s.flags(f)
		listVar(f, &s.drivers, "driver", []string{"overlayfs"}, "the `driver`: "+strings.Join(driverNames(), ", "))
		listVar(f, &s.links, "link", []string{"unlimited"}, "the `link` between server and worker: unlimited, 1g or 100m")
		all := f.Bool("all", false, "all images that the registry has")
		if err := f.Parse(args); err != nil {
			return err
		}
		if *all == (f.NArg() > 0) {
			return fmt.Errorf("%s: want names of images, or -all", op)
		}
		specs, err := s.specs()
		if err != nil {
			return err
		}
		if len(specs) != 1 || len(s.drivers) != 1 {
			return fmt.Errorf("%s: want one driver and one link", op)
		}
		r, err := s.start(ctx, specs[0])
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.stop()) }()
		images, err := r.images(ctx, f.Args())
		if err != nil {
			return err
		}
		var errs []error
		for _, i := range images {
			errs = append(errs, operate(ctx, r, op, i))
		}
		return errors.Join(errs...)
	}
}

func operate(ctx context.Context, r *rig, op string, i drive.Image) error {
	d := r.drivers[0]
	say := func(what string, took time.Duration) {
		fmt.Printf("%s %s: %.3f s\n", what, i.Name, took.Seconds())
	}
	if op == "tag" {
		started := time.Now()
		if err := tag(ctx, r, i); err != nil {
			return fmt.Errorf("tag %s: %w", i.Name, err)
		}
		say("tag", time.Since(started))
		return nil
	}
	if err := d.Prepare(ctx, i); err != nil {
		return fmt.Errorf("prepare %s: %w", i.Name, err)
	}
	if err := drive.Keep(ctx, d, i); err != nil {
		return err
	}
	started := time.Now()
	if err := d.Pull(ctx, i); err != nil {
		return fmt.Errorf("pull %s: %w", i.Name, err)
	}
	say("pull", time.Since(started))
	switch op {
	case "run":
		run, err := d.Run(ctx, i, fmt.Sprintf("hellobench-%d", time.Now().UnixNano()))
		if err != nil {
			return fmt.Errorf("run %s: %w", i.Name, err)
		}
		say("run", run.Total())
		return run.End(ctx)
	case "push":
		p, can := d.(drive.Pusher)
		if !can {
			return fmt.Errorf("driver %s cannot push", d.Name())
		}
		took, err := p.Push(ctx, i)
		if err != nil {
			return fmt.Errorf("push %s: %w", i.Name, err)
		}
		say("push", took)
	}
	return nil
}

// tag names the image NAME:hello.
func tag(ctx context.Context, r *rig, i drive.Image) error {
	img, err := r.bed.Fetch(ctx, "", i.Name)
	if err != nil {
		return err
	}
	ref, err := drive.Ref(r.bed.Registry, "", i.Name)
	if err != nil {
		return err
	}
	return remote.Tag(ref.Context().Tag("hello"), img, drive.Remote(ctx, r.bed.Link.Server)...)
}

// runFetch takes the original images from elsewhere.
func runFetch(ctx context.Context, args []string) (err error) {
	var s setup
	f := flag.NewFlagSet("fetch", flag.ContinueOnError)
	s.flags(f)
	registry := f.String("registry", "docker.io/library", "where from, a `registry` and path")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() == 0 {
		return errors.New("fetch: want names of images")
	}
	r, err := s.start(ctx, link.Unlimited)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	for _, n := range f.Args() {
		if err := r.fetch(ctx, *registry, n); err != nil {
			return fmt.Errorf("fetch %s: %w", n, err)
		}
	}
	return nil
}

func (r *rig) fetch(ctx context.Context, registry, image string) error {
	if _, ok := catalog.Find(image); !ok {
		return fmt.Errorf("HelloBench has no image %q", image)
	}
	from, err := name.ParseReference(registry + "/" + image)
	if err != nil {
		return err
	}
	img, err := remote.Image(from, remote.WithContext(ctx))
	if err != nil {
		return err
	}
	to, err := drive.Ref(r.bed.Registry, "", image)
	if err != nil {
		return err
	}
	if err := remote.Write(to, img, drive.Remote(ctx, r.bed.Link.Server)...); err != nil {
		return err
	}
	return addOriginal(r.bed.Cache, image)
}

// The names of images that were fetched and not built are kept in a file: their
// tasks may differ.
func originals(cache string) []string {
	b, err := os.ReadFile(filepath.Join(cache, "originals.json"))
	if err != nil {
		return nil // none yet
	}
	var names []string
	if json.Unmarshal(b, &names) != nil {
		return nil
	}
	return names
}

func isOriginal(cache, image string) bool { return slices.Contains(originals(cache), image) }

func addOriginal(cache, image string) error {
	names := originals(cache)
	if slices.Contains(names, image) {
		return nil
	}
	b, err := json.Marshal(append(names, image))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(cache, "originals.json"), b, 0o644)
}
