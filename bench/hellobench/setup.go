package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/bench/hellobench/catalog"
	"github.com/slackerd/slacker/bench/hellobench/drive"
	"github.com/slackerd/slacker/bench/hellobench/link"
	"github.com/slackerd/slacker/stack"
)

// drivers are all that can be compared, in the order of the report.
var drivers = []struct {
	name string
	make func(*drive.Bed) drive.Driver
}{
	{"overlayfs", drive.NewOverlayfs},
	{"stargz", drive.NewStargz},
	{"copy", drive.NewCopy},
	{"qcow2", drive.NewQcow2},
	{"slacker-containerd", drive.NewSnapshotter},
	{"slacker", drive.NewSlacker},
}

func driverNames() []string {
	var names []string
	for _, d := range drivers {
		names = append(names, d.name)
	}
	return names
}

// setup are the flags of what runs images.
type setup struct {
	cache, bin, containerd string
	drivers, links         list
	background             bool
	slots                  int
	stargzLevel            int
}

func (s *setup) flags(f *flag.FlagSet) {
	f.StringVar(&s.cache, "cache", defaultCache, "`directory` that keeps the image set and what is made of it")
	f.StringVar(&s.bin, "bin", "bin", "`directory` of slackerd, slackerctl and slacker-client")
	f.StringVar(&s.containerd, "containerd", string(stack.V2), "`version` of containerd: v2, or debian for 1.6")
	f.IntVar(&s.stargzLevel, "estargz-compression-level", drive.DefaultStargzLevel, "gzip `level` of conversions for stargz, 1 to 9")
	f.BoolVar(&s.background, "background-fetch", true, "let stargz fetch the rest of an image after it was mounted")
}

// list is a flag of several values with commas between.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(s string) error {
	*l = strings.Split(s, ",")
	return nil
}

func listVar(f *flag.FlagSet, l *list, name string, value []string, usage string) {
	*l = value
	f.Var(l, name, usage)
}

// specs are the links that were asked for.
func (s *setup) specs() ([]link.Spec, error) {
	var specs []link.Spec
	for _, name := range s.links {
		n := slices.IndexFunc(link.Specs, func(l link.Spec) bool { return l.Name == name })
		if n < 0 {
			return nil, fmt.Errorf("want a link of unlimited, 1g and 100m, got %q", name)
		}
		specs = append(specs, link.Specs[n])
	}
	return specs, nil
}

// rig is a bed with its drivers started.
type rig struct {
	bed     *drive.Bed
	drivers []drive.Driver
}

func (s *setup) start(ctx context.Context, spec link.Spec) (_ *rig, err error) {
	if os.Getuid() != 0 {
		return nil, errors.New("want root, to make namespaces, mounts and containers")
	}
	if s.stargzLevel < 1 || s.stargzLevel > 9 {
		return nil, fmt.Errorf("want an eStargz compression level of 1 to 9, got %d", s.stargzLevel)
	}
	programs, err := stack.FindPrograms()
	if err != nil {
		return nil, err
	}
	cache, err := filepath.Abs(s.cache)
	if err != nil {
		return nil, err
	}
	bin, err := filepath.Abs(s.bin)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	r := &rig{}
	r.bed, err = drive.NewBed(ctx, drive.BedOptions{
		Link: spec, Cache: cache, Programs: programs, Bin: bin, Version: stack.Version(s.containerd), Slots: max(2, s.slots), Background: s.background,
		StargzLevel: s.stargzLevel,
	})
	if err != nil {
		return nil, err
	}
	for _, name := range s.drivers {
		if err := r.add(ctx, name); err != nil {
			return nil, errors.Join(err, r.stop())
		}
	}
	return r, nil
}

func (r *rig) add(ctx context.Context, name string) error {
	for _, d := range drivers {
		if d.name != name {
			continue
		}
		made := d.make(r.bed)
		r.drivers = append(r.drivers, made)
		if err := made.Start(ctx); err != nil {
			return fmt.Errorf("driver %s: %w", name, err)
		}
		return nil
	}
	return fmt.Errorf("want drivers of %s, got %q", strings.Join(driverNames(), ", "), name)
}

// named are its drivers of these names.
func (r *rig) named(names []string) []drive.Driver {
	return slices.DeleteFunc(slices.Clone(r.drivers), func(d drive.Driver) bool { return !slices.Contains(names, d.Name()) })
}

func namesOf(images []drive.Image) []string {
	var names []string
	for _, i := range images {
		names = append(names, i.Name)
	}
	return names
}

func (r *rig) stop() error {
	for _, d := range slices.Backward(r.drivers) {
		d.Stop()
	}
	return r.bed.Close()
}

// images finds images by name in the registry, all of the catalog that are there
// when none is named.
func (r *rig) images(ctx context.Context, names []string) ([]drive.Image, error) {
	var found []drive.Image
	if len(names) == 0 {
		for _, i := range catalog.All() {
			if image, err := r.lookup(ctx, i.Name); err == nil {
				found = append(found, image)
			}
		}
		if len(found) == 0 {
			return nil, errors.New("the registry has no image of HelloBench: build them first")
		}
		return found, nil
	}
	for _, name := range names {
		image, err := r.lookup(ctx, name)
		if err != nil {
			return nil, err
		}
		found = append(found, image)
	}
	return found, nil
}

func (r *rig) lookup(ctx context.Context, name string) (drive.Image, error) {
	i, ok := catalog.Find(name)
	if !ok {
		return drive.Image{}, fmt.Errorf("HelloBench has no image %q", name)
	}
	return r.bed.Lookup(ctx, name, i.Run(!isOriginal(r.bed.Cache, name)))
}

// prepare does the server's side of all images for drivers.
func prepare(ctx context.Context, cache string, drivers []drive.Driver, images []drive.Image, progress io.Writer) error {
	for n, i := range images {
		if err := room(cache); err != nil {
			return err
		}
		_, _ = fmt.Fprintf(progress, "hellobench: [%d/%d] preparing %s\n", n+1, len(images), i.Name)
		// What our snapshotter has unpacked need not be imported for the others.
		first := slices.SortedStableFunc(slices.Values(drivers), func(a, b drive.Driver) int {
			return cmp.Compare(strings.Index(b.Name(), "-containerd"), strings.Index(a.Name(), "-containerd"))
		})
		for _, d := range first {
			if err := d.Prepare(ctx, i); err != nil {
				return fmt.Errorf("prepare %s for %s: %w", i.Name, d.Name(), err)
			}
		}
	}
	return nil
}

// minFree is what preparing and measuring leave free on the disk of the cache.
const minFree = 8 << 30

// room wants that much to be free.
func room(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < minFree {
		return fmt.Errorf("want %s free where %s is, got %s", humanize.IBytes(minFree), dir, humanize.IBytes(uint64(free)))
	}
	return nil
}
