package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/slackerd/slacker/bench/hellobench/images"
	"github.com/slackerd/slacker/suggest"
)

// defaultCache is where the image set is kept, relative to the repository.
const defaultCache = ".cache/hellobench"

// buildCommand builds the image set.
func buildCommand() *cobra.Command {
	var cache, mirror, push string
	cmd := &cobra.Command{
		Use:   "build [IMAGE...]",
		Short: "build images of HelloBench from Debian, Go and npm packages",
		Long: `Build builds images of HelloBench into the cache, all that can be built when none is named.
What is in the cache is not built again; a build that was stopped goes on where it was.
It needs root, mmdebstrap and a Debian archive.`,
		Example: "  hellobench build redis postgres\n  hellobench build --push 127.0.0.1:5000",
		RunE: func(cmd *cobra.Command, names []string) error {
			recipes, err := recipesOf(names)
			if err != nil {
				return err
			}
			progress := cmd.ErrOrStderr()
			_, err = images.Build(cmd.Context(), images.Options{Dir: cache, Recipes: recipes, Mirror: mirror, Progress: progress})
			if err != nil || push == "" {
				return err
			}
			return images.Push(cmd.Context(), images.PushOptions{Dir: cache, Recipes: recipes, Registry: push, Progress: progress})
		},
	}
	cmd.Flags().StringVar(&cache, "cache", defaultCache, "`directory` that keeps what was built")
	cmd.Flags().StringVar(&mirror, "mirror", "", "Debian archive to fetch from, a `URL`; empty is the usual one")
	cmd.Flags().StringVar(&push, "push", "", "push the images to this `registry`, HOST:PORT")
	return cmd
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
			did := ""
			if near := suggest.Nearest(name, images.Names()); near != "" {
				did = fmt.Sprintf(" (did you mean %s?)", near)
			}
			return nil, fmt.Errorf("no recipe for an image %q%s: see hellobench images", name, did)
		}
		recipes = append(recipes, r)
	}
	return recipes, nil
}

// imagesCommand lists the image set.
func imagesCommand() *cobra.Command {
	var cache string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "images",
		Short: "list the images of HelloBench: which are built, and why others cannot be",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			states, err := images.States(cache)
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(states)
			}
			return printStates(cmd.OutOrStdout(), states)
		},
	}
	cmd.Flags().StringVar(&cache, "cache", defaultCache, "`directory` that keeps what was built")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printStates(w io.Writer, states []images.State) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "IMAGE\tCATEGORY\tVERSION\tSIZE\tCOMPRESSED\tLAYERS\tNOTE")
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
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Image.Name, s.Image.Category, version, size, compressed, layers, note)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%d images can be built, %d are.\n", recipes, built)
	return err
}
