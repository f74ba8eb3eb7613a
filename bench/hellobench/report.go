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
	"github.com/slackerd/slacker/bench/hellobench/measure"
	"github.com/slackerd/slacker/bench/hellobench/report"
	"github.com/slackerd/slacker/bench/hellobench/space"
	"github.com/slackerd/slacker/stack"
)

// runSpace measures deduplication and compression of the image set.
func runSpace(ctx context.Context, args []string) (err error) {
	f := flag.NewFlagSet("space", flag.ContinueOnError)
	cache := f.String("cache", defaultCache, "`directory` that keeps the image set")
	run := f.String("name", "default", "`name` of the run whose report it is for")
	if err := f.Parse(args); err != nil {
		return err
	}
	found, stop, err := registered(ctx, *cache, f.Args())
	if err != nil {
		return err
	}
	defer stop()
	r, err := spaceOf(ctx, filepath.Join(*cache, "space.json"), found)
	if err != nil {
		return err
	}
	s := r.Set
	fmt.Printf("%d images: %.2f GB of files; gzip %.2f GB, different files %.2f GB, different 4k blocks %.2f GB, these with zstd %.2f GB\n", len(r.Images),
		float64(s.Whole)/1e9, float64(s.Gzip)/1e9, float64(s.UniqueFiles)/1e9, float64(s.UniqueBlock)/1e9, float64(s.UniqueZstd)/1e9)
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	dir := runDir(*cache, *run)
	return errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "space.json"), b, 0o644))
}

// spaceOf measures, or takes from a file what was measured of the same images:
// nothing but the images decides it.
func spaceOf(ctx context.Context, file string, of []space.Image) (*space.Result, error) {
	var kept struct {
		Images []string // NAME@DIGEST
		Result *space.Result
	}
	var names []string
	for _, i := range of {
		d, err := i.Image.Digest()
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", i.Name, err)
		}
		names = append(names, i.Name+"@"+d.String())
	}
	if b, err := os.ReadFile(file); err == nil && json.Unmarshal(b, &kept) == nil && kept.Result != nil && slices.Equal(kept.Images, names) {
		return kept.Result, nil
	}
	r, err := space.Measure(ctx, of, os.Stderr)
	if err != nil {
		return nil, err
	}
	kept.Images, kept.Result = names, r
	b, err := json.Marshal(kept)
	if err != nil {
		return nil, err
	}
	return r, os.WriteFile(file, b, 0o644)
}

// registered are images of the registry's storage, all when none is named.
func registered(ctx context.Context, cache string, names []string) (found []space.Image, stop func(), err error) {
	all := len(names) == 0
	if all {
		for _, i := range catalog.All() {
			names = append(names, i.Name)
		}
	}
	programs, err := stack.FindPrograms()
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "hbspace")
	if err != nil {
		return nil, nil, err
	}
	storage, err := filepath.Abs(filepath.Join(cache, "registry"))
	if err != nil {
		return nil, nil, err
	}
	r, err := stack.StartRegistry(ctx, stack.RegistryOptions{Programs: programs, Dir: dir, Storage: storage})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	stop = func() {
		r.Stop()
		_ = os.RemoveAll(dir) // a socket and a log
	}
	for _, n := range names {
		ref, err := name.ParseReference(r.Addr()+"/"+n, name.WithDefaultTag("latest"))
		if err != nil {
			stop()
			return nil, nil, err
		}
		img, err := remote.Image(ref, remote.WithContext(ctx))
		if err != nil && !all {
			stop()
			return nil, nil, fmt.Errorf("image %s: %w", n, err)
		}
		if err == nil {
			found = append(found, space.Image{Name: n, Image: img})
		}
	}
	return found, stop, nil
}

// runReport writes the report of a run.
func runReport(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("report", flag.ContinueOnError)
	cache := f.String("cache", defaultCache, "`directory` that keeps the image set and the runs")
	run := f.String("name", "default", "`name` of the run")
	out := f.String("out", "bench/results/hellobench", "`path` of the report, without .json and .html")
	readme := f.String("readme", "", "`file` to put the table of main figures into, between its marks")
	command := f.String("command", "make hellobench", "the `command` that made it, for the reader")
	if err := f.Parse(args); err != nil {
		return err
	}
	dir := runDir(*cache, *run)
	records, err := measure.ReadRecords(filepath.Join(dir, "records.jsonl"))
	if err != nil {
		return fmt.Errorf("run %q: %w", *run, err)
	}
	a, err := readAbout(ctx, dir)
	if err != nil {
		return err
	}
	d := &report.Data{
		Name: *run, At: time.Now().UTC(), Commit: strings.Join(a.Commits, ", "), Command: *command, Machine: a.Machine,
		StargzLevel: a.StargzLevel, Records: records,
	}
	if len(records) > 0 {
		d.At = records[len(records)-1].At.UTC()
	}
	if err := describe(d, *cache, dir); err != nil {
		return err
	}
	if err := d.Write(*out); err != nil {
		return err
	}
	fmt.Print(d.Markdown())
	if *readme == "" {
		return nil
	}
	return d.UpdateReadme(*readme)
}
