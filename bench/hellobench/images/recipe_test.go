package images

import (
	"slices"
	"strings"
	"testing"

	"github.com/slackerd/slacker/bench/hellobench/catalog"
)

// TestEveryImageHasARecipeOrAReason holds recipes and reasons to the catalog.
func TestEveryImageHasARecipeOrAReason(t *testing.T) {
	names, ids := map[string]bool{}, map[string]string{}
	categories := map[catalog.Category]int{}
	for _, r := range All() {
		i, known := catalog.Find(r.Name)
		if !known {
			t.Errorf("recipe %s: HelloBench has no such image", r.Name)
		}
		if r.Top == nil || r.VersionOf == "" || len(r.Config.Cmd)+len(r.Config.Entrypoint) == 0 {
			t.Errorf("recipe %s: want layers, a package to take the version of, and a command, got %+v", r.Name, r)
		}
		if names[r.Name] {
			t.Errorf("recipe %s is there twice", r.Name)
		}
		names[r.Name] = true
		if other, taken := ids[r.ID()]; taken {
			t.Errorf("recipes %s and %s have one id", r.Name, other)
		}
		ids[r.ID()] = r.Name
		if !strings.Contains(r.Name, ":") {
			categories[i.Category]++
		}
	}
	total := 0
	for _, c := range catalog.Categories {
		if categories[c] == 0 {
			t.Errorf("no image of the category %s", c)
		}
		total += categories[c]
	}
	if total < 30 {
		t.Errorf("%d of the 57 images have a recipe, want at least 30", total)
	}
	for _, i := range catalog.All() {
		if names[i.Name] == (missing[i.Name] != "") {
			t.Errorf("%s: want either a recipe or a reason why there is none", i.Name)
		}
	}
	for name := range missing {
		if i, known := catalog.Find(name); !known || i.Name != name {
			t.Errorf("a reason for %s, which HelloBench does not have", name)
		}
	}
}

// TestLayerIDs: the identity of a layer changes with all that it is made of.
func TestLayerIDs(t *testing.T) {
	base := &Layer{Base: "suite"}
	layers := []*Layer{
		base, {Base: "other"}, base.install("a"), base.install("a", "b"), base.install("a b"), base.install("a").then("true"),
		base.files(File{"/a", "1", 0o644}), base.files(File{"/a", "2", 0o644}), base.files(File{"/a", "1", 0o755}), base.run("a"),
		base.install("a").install("b"), (&Layer{Base: "other"}).install("a"), {Installed: "a"}, {GoProgram: "a"},
	}
	seen := map[string]*Layer{}
	for _, l := range layers {
		if other := seen[l.ID()]; other != nil {
			t.Errorf("%s and %s have one id", l, other)
		}
		seen[l.ID()] = l
	}
	if a, b := base.install("a").ID(), base.install("a").ID(); a != b {
		t.Errorf("one layer has the ids %s and %s", a, b)
	}
}

func TestChain(t *testing.T) {
	base := &Layer{Base: "suite"}
	top := base.install("a").run("b")
	var got []string
	for _, l := range top.chain() {
		got = append(got, l.String())
	}
	want := []string{"FROM debian:suite", "RUN apt-get install a", "RUN b"}
	if !slices.Equal(got, want) || top.suite() != "suite" {
		t.Errorf("the chain is %q on %q, want %q on suite", got, top.suite(), want)
	}
}
