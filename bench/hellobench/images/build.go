package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Options says what to build and where to.
type Options struct {
	// Dir is the cache; what it holds is not built again.
	Dir string
	// Recipes are what to build.
	Recipes []*Recipe
	// Mirror is where Debian packages are fetched; empty is mmdebstrap's choice.
	Mirror string
	// Progress gets a line for each step, and one every few seconds within.
	Progress io.Writer
	// Shared are all recipes that may be built into the directory sooner or
	// later: unpacked layers that several of them have stay there. Nil is [All].
	Shared []*Recipe
}

// builder builds one image after the other.
type builder struct {
	store    *store
	mirror   string
	progress io.Writer
	shared   map[string]int // how many recipes have a layer
	epochs   map[string]int64
}

// Build builds the images that are not in the cache yet, one after the other,
// and returns what is known of all that were asked for. It may be stopped at any
// time, and goes on from the last complete layer. An image that cannot be built
// does not keep the others from it; the error has all of them.
func Build(ctx context.Context, o Options) ([]*Built, error) {
	if err := checkTools(o.Recipes); err != nil {
		return nil, err
	}
	s, err := openStore(o.Dir, true)
	if err != nil {
		return nil, err
	}
	if o.Shared == nil {
		o.Shared = All()
	}
	b := &builder{store: s, mirror: o.Mirror, progress: o.Progress, shared: map[string]int{}, epochs: map[string]int64{}}
	for _, r := range o.Shared {
		for _, l := range r.Top.chain() {
			b.shared[l.ID()]++
		}
	}
	var built []*Built
	var errs []error
	for i, r := range o.Recipes {
		img, err := b.image(ctx, r, fmt.Sprintf("[%d/%d] %s", i+1, len(o.Recipes), r.Name))
		if ctx.Err() != nil {
			return built, errors.Join(ctx.Err(), s.clearWork(), s.close())
		}
		if err != nil {
			b.say("[%d/%d] %s: %v", i+1, len(o.Recipes), r.Name, err)
			errs = append(errs, fmt.Errorf("image %s: %w", r.Name, err))
			continue
		}
		built = append(built, img)
	}
	return built, errors.Join(append(errs, s.clearWork(), s.close())...)
}

// checkTools wants what building needs, all faults at once.
func checkTools(recipes []*Recipe) error {
	tools := map[string]bool{}
	for _, r := range recipes {
		for _, l := range r.Top.chain() {
			switch {
			case l.Base != "":
				tools["mmdebstrap"], tools["unshare"] = true, true
			case l.GoProgram != "":
				tools["go"] = true
			case l.Installed != "":
				tools["dpkg"] = true
			}
		}
	}
	var errs []error
	if tools["mmdebstrap"] && os.Geteuid() != 0 {
		errs = append(errs, errors.New("want root, to make Debian systems"))
	}
	for tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			errs = append(errs, fmt.Errorf("%s is not installed: run make setup", tool))
		}
	}
	return errors.Join(errs...)
}

func (b *builder) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.progress, "images: "+format+"\n", args...)
}

// image builds the layers of an image that are missing, and describes it.
func (b *builder) image(ctx context.Context, r *Recipe, title string) (*Built, error) {
	if known, err := b.store.image(r); known != nil || err != nil {
		return known, err
	}
	started := time.Now()
	built := &Built{Name: r.Name, Recipe: r.ID(), Suite: r.Top.suite(), Note: r.Note}
	chain := r.Top.chain()
	if err := b.layers(ctx, chain, title); err != nil {
		return nil, err
	}
	for _, l := range chain {
		done, err := b.store.layer(l)
		if err != nil {
			return nil, err
		}
		built.CompressedBytes += done.SizeBytes
		built.UncompressedBytes += done.FileBytes
		built.Layers = append(built.Layers, done.Digest.String())
		built.Versions = done.Versions
	}
	img, err := b.store.assemble(r)
	if err != nil {
		return nil, err
	}
	digest, err := img.Digest()
	if err != nil {
		return nil, err
	}
	built.Digest, built.Version = digest.String(), built.Versions[r.VersionOf]
	if r.VersionOf == "" {
		built.Version = r.Top.suite()
	}
	if built.Version == "" {
		return nil, fmt.Errorf("package %s, whose version is that of the image, is not in it", r.VersionOf)
	}
	if err := os.MkdirAll(filepath.Dir(b.store.imageFile(r)), 0o755); err != nil {
		return nil, err
	}
	if err := writeJSON(b.store.imageFile(r), built); err != nil {
		return nil, err
	}
	b.say("%s: version %s, %s in %d layers, %s compressed, in %.1f s", title, built.Version,
		humanize.IBytes(uint64(built.UncompressedBytes)), len(chain), humanize.IBytes(uint64(built.CompressedBytes)), time.Since(started).Seconds())
	return built, b.dropTrees(r)
}

// dropTrees removes the unpacked layers that no other image stands on.
func (b *builder) dropTrees(r *Recipe) error {
	for _, l := range r.Top.chain() {
		if b.shared[l.ID()] < 2 {
			if err := os.RemoveAll(b.store.tree(l)); err != nil {
				return err
			}
		}
	}
	return nil
}

// layers builds what is missing of a chain. A layer that is there but not
// unpacked is built again if one above it has to be.
func (b *builder) layers(ctx context.Context, chain []*Layer, title string) error {
	top := len(chain) - 1 // the highest layer that is there
	for ; top >= 0; top-- {
		if done, err := b.store.layer(chain[top]); done != nil || err != nil {
			if err != nil {
				return err
			}
			break
		}
	}
	if top == len(chain)-1 {
		return nil
	}
	for i, l := range chain {
		done, err := b.store.layer(l)
		if err != nil {
			return err
		}
		if done != nil && b.store.unpacked(l) {
			continue
		}
		if err := b.layer(ctx, l, fmt.Sprintf("%s: layer %d of %d", title, i+1, len(chain))); err != nil {
			return err
		}
	}
	return nil
}

// layer builds a layer on those below it, which are built and unpacked.
func (b *builder) layer(ctx context.Context, l *Layer, title string) error {
	started := time.Now()
	b.say("%s: %s", title, l.title())
	if err := b.store.clearWork(); err != nil {
		return err
	}
	tree := filepath.Join(b.store.work(), "tree")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return err
	}
	if err := b.make(ctx, l, tree); err != nil {
		return err
	}
	versions, err := b.versions(l, tree)
	if err != nil {
		return err
	}
	blob := filepath.Join(b.store.work(), "layer.tar.gz")
	done, err := pack(tree, blob, b.epoch(l.suite()))
	if err != nil {
		return err
	}
	done.CreatedBy, done.Versions = l.String(), versions
	if l.Below != nil {
		below, err := b.store.layer(l.Below)
		if err != nil {
			return err
		}
		done.Below = &below.DiffID
	}
	if err := b.keep(l, tree, blob, done); err != nil {
		return err
	}
	b.say("%s: %s, %s compressed, in %.1f s", title, humanize.IBytes(uint64(done.FileBytes)),
		humanize.IBytes(uint64(done.SizeBytes)), time.Since(started).Seconds())
	return nil
}

func (b *builder) make(ctx context.Context, l *Layer, tree string) error {
	switch {
	case l.Base != "":
		return b.makeBase(ctx, l, tree)
	case l.Installed != "":
		return b.makeInstalled(ctx, l, tree)
	case l.GoProgram != "":
		return b.makeGoProgram(ctx, l, tree)
	default:
		return b.makeStep(ctx, l, tree)
	}
}

// keep moves a finished layer to where it belongs; its description comes last.
func (b *builder) keep(l *Layer, tree, blob string, done *builtLayer) error {
	dir := b.store.layerDir(l)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(tree, b.store.tree(l)), os.Rename(blob, b.store.blob(l))); err != nil {
		return err
	}
	return writeJSON(filepath.Join(dir, "layer.json"), done)
}

// versions are those of the packages in a layer and below.
func (b *builder) versions(l *Layer, tree string) (map[string]string, error) {
	switch {
	case l.Installed != "":
		version, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", l.Installed).Output()
		if err != nil {
			return nil, fmt.Errorf("version of %s: %w", l.Installed, err)
		}
		return map[string]string{l.Installed: string(version)}, nil
	case l.GoProgram != "":
		version, err := exec.Command("go", "env", "GOVERSION").Output()
		if err != nil {
			return nil, fmt.Errorf("version of go: %w", err)
		}
		return map[string]string{l.GoProgram: strings.TrimSpace(string(version))}, nil
	}
	versions, err := installedVersions(tree)
	if versions != nil || err != nil || l.Below == nil {
		return versions, err
	}
	below, err := b.store.layer(l.Below)
	if err != nil {
		return nil, err
	}
	return below.Versions, nil
}

// epoch is the time of files that are made by building: that of the archive,
// and 1970 where no archive is used.
func (b *builder) epoch(suite string) int64 {
	if suite == "" {
		return 0
	}
	if _, known := b.epochs[suite]; !known {
		date, err := releaseDate(filepath.Join(b.aptDir(suite), "lists"))
		if err != nil {
			b.say("date of %s: %v", suite, err)
		}
		b.epochs[suite] = date
	}
	return b.epochs[suite]
}
