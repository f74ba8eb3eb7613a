package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/spf13/cobra"

	"github.com/slackerd/slacker/bench/hellobench/catalog"
	"github.com/slackerd/slacker/bench/hellobench/drive"
)

// opCommand is one of the operations of the original HelloBench.
func opCommand(op string) *cobra.Command {
	var s setup
	var all bool
	short := map[string]string{
		"pull": "bring images to a worker",
		"run":  "bring images to a worker and run each until it has said hello",
		"push": "bring images to a worker and push them to an empty registry",
		"tag":  "give images another name in the registry, as the original's tag and push do",
	}[op]
	cmd := &cobra.Command{
		Use: op + " [IMAGE...]", Short: short,
		Example: fmt.Sprintf("  hellobench %s redis postgres\n  hellobench %s --all --drivers slacker", op, op),
		RunE: func(cmd *cobra.Command, names []string) (err error) {
			if all == (len(names) > 0) {
				return errors.New("want names of images, or --all")
			}
			specs, err := s.specs()
			if err != nil {
				return err
			}
			if len(specs) != 1 || len(s.drivers) != 1 {
				return errors.New("want one driver and one link")
			}
			r, err := s.start(cmd.Context(), specs[0])
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, r.stop()) }()
			images, err := r.images(cmd.Context(), names)
			if err != nil {
				return err
			}
			var errs []error
			for _, i := range images {
				errs = append(errs, operate(cmd, r, op, i))
			}
			return errors.Join(errs...)
		},
	}
	s.flags(cmd.Flags())
	cmd.Flags().StringSliceVar(&s.drivers, "driver", []string{"overlayfs"}, "the `driver`")
	cmd.Flags().StringSliceVar(&s.links, "link", []string{"unlimited"}, "the `link` between server and worker")
	cmd.Flags().BoolVar(&all, "all", false, "all images that the registry has")
	return cmd
}

func operate(cmd *cobra.Command, r *rig, op string, i drive.Image) error {
	ctx, d := cmd.Context(), r.drivers[0]
	say := func(what string, took time.Duration) {
		_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s %s: %.3f s\n", what, i.Name, took.Seconds())
	}
	if op == "tag" {
		started := time.Now()
		if err := tag(cmd, r, i); err != nil {
			return fmt.Errorf("tag %s: %w", i.Name, err)
		}
		say("tag", time.Since(started))
		return nil
	}
	if err := d.Prepare(ctx, i); err != nil {
		return fmt.Errorf("prepare %s: %w", i.Name, err)
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
func tag(cmd *cobra.Command, r *rig, i drive.Image) error {
	img, err := r.bed.Fetch(cmd.Context(), "", i.Name)
	if err != nil {
		return err
	}
	ref, err := drive.Ref(r.bed.Registry, "", i.Name)
	if err != nil {
		return err
	}
	return remote.Tag(ref.Context().Tag("hello"), img, drive.Remote(cmd.Context(), r.bed.Link.Server)...)
}

// fetchCommand takes the original images from elsewhere.
func fetchCommand() *cobra.Command {
	var s setup
	var registry string
	cmd := &cobra.Command{
		Use:     "fetch IMAGE...",
		Short:   "take images from another registry instead of building them",
		Example: "  hellobench fetch --registry docker.io/library redis nginx",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) (err error) {
			s.links = []string{"unlimited"}
			specs, err := s.specs()
			if err != nil {
				return err
			}
			r, err := s.start(cmd.Context(), specs[0])
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, r.stop()) }()
			for _, n := range names {
				if err := r.fetch(cmd, registry, n); err != nil {
					return fmt.Errorf("fetch %s: %w", n, err)
				}
			}
			return nil
		},
	}
	s.flags(cmd.Flags())
	cmd.Flags().StringVar(&registry, "registry", "docker.io/library", "where from, a `registry` and path")
	return cmd
}

func (r *rig) fetch(cmd *cobra.Command, registry, image string) error {
	if _, ok := catalog.Find(image); !ok {
		return fmt.Errorf("HelloBench has no image %q", image)
	}
	from, err := name.ParseReference(registry + "/" + image)
	if err != nil {
		return err
	}
	img, err := remote.Image(from, remote.WithContext(cmd.Context()))
	if err != nil {
		return err
	}
	to, err := drive.Ref(r.bed.Registry, "", image)
	if err != nil {
		return err
	}
	if err := remote.Write(to, img, drive.Remote(cmd.Context(), r.bed.Link.Server)...); err != nil {
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
