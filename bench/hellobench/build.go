package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/dustin/go-humanize"

	"github.com/slackerd/slacker/bench/hellobench/images"
)

// defaultCache is where the image set is kept, relative to the repository.
const defaultCache = ".cache/hellobench"

// runBuild builds the image set. What is in the cache is not built again; a build
// that was stopped goes on where it was.
func runBuild(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("build", flag.ContinueOnError)
	cache := flags.String("cache", defaultCache, "`directory` that keeps what was built")
	mirror := flags.String("mirror", "", "Debian archive to fetch from, a `URL`; empty is the usual one")
	push := flags.String("push", "", "push the images to this `registry`, HOST:PORT")
	if err := flags.Parse(args); err != nil {
		return err
	}
	recipes, err := recipesOf(flags.Args())
	if err != nil {
		return err
	}
	if _, err := images.Build(ctx, images.Options{Dir: *cache, Recipes: recipes, Mirror: *mirror, Progress: os.Stderr}); err != nil || *push == "" {
		return err
	}
	return images.Push(ctx, images.PushOptions{Dir: *cache, Recipes: recipes, Registry: *push, Progress: os.Stderr})
}

// recipesOf finds recipes by name; no names are all.
func recipesOf(names []string) ([]*images.Recipe, error) {
	if len(names) == 0 {
		return images.All(), nil
	}
	var recipes []*images.Recipe
	for _, name := range names {
		r := images.Find(name)
		if r == nil {
			return nil, fmt.Errorf("no recipe for an image %q%s: see hellobench images", name, didYouMean(name, images.Names()))
		}
		recipes = append(recipes, r)
	}
	return recipes, nil
}

// runImages lists the image set.
func runImages(_ context.Context, args []string) error {
	flags := flag.NewFlagSet("images", flag.ContinueOnError)
	cache := flags.String("cache", defaultCache, "`directory` that keeps what was built")
	asJSON := flags.Bool("json", false, "print JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("images: want no arguments, got %q", flags.Args())
	}
	states, err := images.States(*cache)
	if err != nil {
		return err
	}
	if *asJSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(states)
	}
	return printStates(os.Stdout, states)
}

func printStates(w io.Writer, states []images.State) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "IMAGE\tCATEGORY\tVERSION\tSIZE\tCOMPRESSED\tLAYERS\tNOTE")
	recipes, built := 0, 0
	for _, s := range states {
		version, size, compressed, layers, note := "-", "-", "-", "-", s.Reason
		if s.Recipe != nil {
			recipes++
			version, note = "not built yet", s.Recipe.Note
		}
		if b := s.Built; b != nil {
			built++
			version, size, compressed = b.Version, humanize.IBytes(uint64(b.UncompressedBytes)), humanize.IBytes(uint64(b.CompressedBytes))
			layers = fmt.Sprint(len(b.Layers))
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Image.Name, s.Image.Category, version, size, compressed, layers, note)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%d images can be built, %d are.\n", recipes, built)
	return err
}
