package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slackerd/slacker/bench/hellobench/report"
	"github.com/slackerd/slacker/stack"
)

// about is what is known of what made a run: a file beside its records, since a
// report may be written later, of another state of the tree or elsewhere.
type about struct {
	Machine     report.Machine `json:"machine"`
	Commits     []string       `json:"commits"` // a run may go on at another one
	StargzLevel int            `json:"estargz_compression_level"`
}

func aboutFile(dir string) string { return filepath.Join(dir, "about.json") }

// readAbout reads it; of a run without it is known what is so now.
func readAbout(ctx context.Context, dir string) (about, error) {
	b, err := os.ReadFile(aboutFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return about{Machine: machine(stack.V2), Commits: []string{commit(ctx, ".")}}, nil
	}
	var a about
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return a, fmt.Errorf("%s: %w", aboutFile(dir), err)
	}
	return a, nil
}

// note writes down what measures from now on.
func note(ctx context.Context, dir string, s *setup) error {
	a := about{}
	if _, err := os.Stat(aboutFile(dir)); err == nil {
		if a, err = readAbout(ctx, dir); err != nil {
			return err
		}
	}
	a.Machine, a.StargzLevel = machine(stack.Version(s.containerd)), s.stargzLevel
	if c := commit(ctx, "."); !slices.Contains(a.Commits, c) {
		a.Commits = append(a.Commits, c)
	}
	b, err := json.MarshalIndent(a, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(aboutFile(dir), b, 0o644)
}

// commit is what the tree is at, and whether a file of it was changed. What a run
// writes itself, below bench/results and the table in the README, is no change.
func commit(ctx context.Context, dir string) string {
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...).Output()
		return strings.TrimSpace(string(out)), err
	}
	head, err := git("rev-parse", "--short=9", "HEAD")
	if err != nil {
		return "unknown"
	}
	changed, err := git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)bench/results", ":(top,exclude)README.md")
	if err != nil || changed != "" {
		return head + "-dirty"
	}
	return head
}
