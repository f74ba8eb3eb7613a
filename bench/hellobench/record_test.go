package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slackerd/slacker/bench/hellobench/catalog"
	"github.com/slackerd/slacker/bench/hellobench/images"
	"github.com/slackerd/slacker/bench/hellobench/measure"
)

// TestStepsShareTheBudget wants each step to get its part of what is left, so that a
// step that ends early leaves the rest to those after it.
func TestStepsShareTheBudget(t *testing.T) {
	all := []step{{name: "a", part: 3}, {name: "b", part: 1}, {name: "c", part: 1}}
	for _, c := range []struct {
		left []step
		rest time.Duration
		want time.Duration
	}{
		{all, 10 * time.Minute, 6 * time.Minute},
		{all[1:], 9 * time.Minute, 4*time.Minute + 30*time.Second}, // a took one minute
		{all[2:], time.Minute, time.Minute},
		{all[2:], -time.Minute, 0},
	} {
		if got := share(c.left, c.rest); got != c.want {
			t.Errorf("%d steps, %v: %v for the first, want %v", len(c.left), c.rest, got, c.want)
		}
	}
}

func TestChosenSteps(t *testing.T) {
	some, err := chosen(steps(setup{}), []string{"scale", "1g"})
	if err != nil || len(some) != 2 || some[0].name != "1g" || some[1].name != "scale" {
		t.Errorf("got %v, %v, want two steps in their order", some, err)
	}
	if _, err := chosen(steps(setup{}), []string{"nonesuch"}); err == nil || !strings.Contains(err.Error(), "longrun") {
		t.Errorf("a step that is none: %v, want the names of those there are", err)
	}
}

// TestStepsAreOfWhatThereIs holds the steps to the recipes, drivers and categories.
func TestStepsAreOfWhatThereIs(t *testing.T) {
	for _, s := range steps(setup{}) {
		categories := map[catalog.Category]bool{}
		for _, name := range s.plan.names {
			i, known := catalog.Find(name)
			if !known || images.Find(name) == nil {
				t.Errorf("step %s: there is no recipe for %s", s.name, name)
			}
			categories[i.Category] = true
		}
		if s.plan.what[0] == "cycle" && len(s.plan.names) > 0 && len(categories) != len(catalog.Categories) {
			t.Errorf("step %s: images of %d categories, want all", s.name, len(categories))
		}
		if len(s.plan.drivers) < 4 || s.part <= 0 {
			t.Errorf("step %s: drivers %v, part %v", s.name, s.plan.drivers, s.part)
		}
		if _, err := s.plan.specs(); err != nil {
			t.Errorf("step %s: %v", s.name, err)
		}
	}
}

// TestMissing wants a record to want what is built, less what is in its log.
func TestMissing(t *testing.T) {
	log, err := measure.OpenLog(filepath.Join(t.TempDir(), "records.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	some, err := chosen(steps(setup{}), []string{"cycles", "scale"})
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	r := recording{steps: some, log: log, built: []string{"redis", "gcc:12"}, progress: &said}
	cycles, scale := r.missing(some[0]), r.missing(some[1])
	if len(cycles) != len(driverNames()) || len(scale) != 5*(len(driverNames())-1) {
		t.Errorf("missing %d cycles and %d of scale, want those of redis", len(cycles), len(scale))
	}
	if err := log.Add(cycles[0]); err != nil {
		t.Fatal(err)
	}
	if got := r.missing(some[0]); len(got) != len(cycles)-1 {
		t.Errorf("missing %d cycles after one of %d was made", len(got), len(cycles))
	}
	if err := r.say(time.Minute); err != nil || !strings.Contains(said.String(), "(cycles 5, scale 25)") {
		t.Errorf("it says %q, %v", &said, err)
	}
	if got := r.there([]string{"gcc", "redis"}); len(got) != 1 || got[0] != "redis" {
		t.Errorf("of gcc and redis %v are there, want redis, which is built", got)
	}
	r.built = []string{"redis"}
	for _, s := range r.wanting(steps(setup{})) {
		if s.name == "multimake" {
			t.Error("a step of which nothing is built has a share of the time")
		}
	}
	r.steps = nil
	said.Reset()
	if err := r.say(time.Minute); err != nil || !strings.Contains(said.String(), "whole") {
		t.Errorf("a whole record says %q, %v", &said, err)
	}
}

// TestCommit wants a tree to be called dirty for what the benchmark does not write.
func TestCommit(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		args = append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@b"}, args...)
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := commit(t.Context(), dir); got != "unknown" {
		t.Errorf("no repository: %q", got)
	}
	git("init", "-q")
	write("main.go", "1")
	write("bench/results/hellobench.json", "1")
	git("add", ".")
	git("commit", "-q", "-m", "one")
	clean := commit(t.Context(), dir)
	write("bench/results/hellobench.json", "2")
	write("notes", "not tracked")
	if got := commit(t.Context(), filepath.Join(dir, "bench")); len(clean) < 9 || got != clean {
		t.Errorf("after a report was written: %q, want %q", got, clean)
	}
	write("main.go", "2")
	if got := commit(t.Context(), dir); got != clean+"-dirty" {
		t.Errorf("after a change: %q, want %q", got, clean+"-dirty")
	}
}

// TestNote wants a run to know of all commits that it was measured at.
func TestNote(t *testing.T) {
	dir := t.TempDir()
	s := &setup{containerd: "v2", stargzLevel: 3}
	for range 2 {
		if err := note(t.Context(), dir, s); err != nil {
			t.Fatal(err)
		}
	}
	a, err := readAbout(t.Context(), dir)
	if err != nil || len(a.Commits) != 1 || a.StargzLevel != 3 || a.Machine.Cores == 0 {
		t.Errorf("got %+v, %v", a, err)
	}
	b := []byte(`{"commits":["another"]}`)
	if err := os.WriteFile(aboutFile(dir), b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := note(t.Context(), dir, s); err != nil {
		t.Fatal(err)
	}
	if a, err = readAbout(t.Context(), dir); err != nil || len(a.Commits) != 2 || a.Commits[0] != "another" {
		t.Errorf("of a run that goes on: %+v, %v, want both commits", a, err)
	}
}

func TestContainerdVersion(t *testing.T) {
	for line, want := range map[string]string{
		"containerd github.com/containerd/containerd/v2 2.4.2+unknown \n":               "2.4.2",
		"containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u2\n": "1.6.20~ds1",
		"": "unknown",
	} {
		if got := containerdVersion(line); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

// TestExpectation wants the time of a run to be said before it begins.
func TestExpectation(t *testing.T) {
	log, err := measure.OpenLog(filepath.Join(t.TempDir(), "records.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	var said bytes.Buffer
	known := []measure.Record{{Kind: measure.Cycle, Link: "unlimited", Image: "redis", Driver: "copy", Wall: 10}}
	r := recording{steps: steps(setup{})[:1], log: log, built: []string{"redis"}, known: known, progress: &said}
	r.expect(40 * time.Minute)
	if want := "6 measurements, about 1m0s, with a limit of 40m0s"; !strings.Contains(said.String(), want) {
		t.Errorf("it says %q, want %q", &said, want)
	}
}

// TestStepsGoOn wants the steps after one that fails to be made, and the failures to
// be told at the end.
func TestStepsGoOn(t *testing.T) {
	log, err := measure.OpenLog(filepath.Join(t.TempDir(), "records.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	var said bytes.Buffer
	r := recording{log: log, built: []string{"redis"}, progress: &said}
	for _, name := range []string{"first", "second"} {
		p := plan{names: []string{"redis"}, what: list{"cycle"}, rounds: 1, progress: &said}
		p.links, p.drivers = list{"nonesuch"}, list{"copy"}
		r.steps = append(r.steps, step{name, 1, p})
	}
	err = r.run(t.Context(), time.Hour)
	if err == nil || !strings.Contains(err.Error(), "step first") || !strings.Contains(err.Error(), "step second") {
		t.Errorf("got %v, want both steps to have failed", err)
	}
	if !strings.Contains(said.String(), "2 measurements are left") {
		t.Errorf("it says %q", &said)
	}
}
