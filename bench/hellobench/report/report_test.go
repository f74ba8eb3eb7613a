package report

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slackerd/slacker/bench/hellobench/catalog"
	"github.com/slackerd/slacker/bench/hellobench/measure"
	"github.com/slackerd/slacker/bench/hellobench/space"
)

// sample is a run of three images with known ratios: slacker deploys 10 times
// faster than overlayfs, and runs twice as long.
func sample() *Data {
	d := &Data{Name: "sample", Commit: "abc", Command: "make <b>"}
	for n, name := range []string{"redis", "gcc", "python"} {
		d.Images = append(d.Images, Image{Name: name, Category: catalog.Language, Compressed: 1e7, Uncompressed: 1e8})
		k := float64(n + 1)
		for _, r := range []measure.Record{
			{Driver: "overlayfs", Pull: 9 * k, Run: k, Again: k, Push: 9 * k, PullBytes: 1e7},
			{Driver: "slacker", Pull: 1e-6, Run: k, Again: 2 * k, Push: 0.01 * k, RunBytes: 5e6},
		} {
			r.Kind, r.Image, r.Link = measure.Cycle, name, "unlimited"
			r.Phases = []measure.Phase{{Name: "root", Seconds: r.Run / 2}, {Name: "hello", Seconds: r.Run / 2}}
			d.Records = append(d.Records, r)
		}
	}
	for _, n := range []int{1, 2, 4} {
		d.Records = append(d.Records, measure.Record{Kind: measure.Scale, Image: "redis", Driver: "slacker", Link: "unlimited", N: n, Run: float64(n)})
	}
	d.Records = append(d.Records,
		measure.Record{Kind: measure.LongRun, Image: "redis", Driver: "overlayfs", Link: "unlimited", Figures: map[string]float64{"SET/s": 200}},
		measure.Record{Kind: measure.LongRun, Image: "redis", Driver: "slacker", Link: "unlimited", Figures: map[string]float64{"SET/s": 100}},
		measure.Record{Kind: measure.MultiMake, Image: "gcc:12", Driver: "slacker", Link: "unlimited", Run: 1},
		measure.Record{Kind: measure.Cycle, Image: "gcc", Driver: "stargz", Link: "unlimited", Error: "no <such> luck"})
	one := space.Sizes{Name: "redis", Whole: 100, Gzip: 40, UniqueFiles: 90, UniqueBlock: 80, UniqueZstd: 50}
	d.Space = &space.Result{Images: []space.Sizes{one}, Set: one}
	return d
}

func TestSummary(t *testing.T) {
	d := sample()
	d.summarize()
	want := map[string]float64{
		"slacker: deployment cycle (pull + run), times faster than overlayfs": 10 * 2 / 2.001,
		"slacker: run, times faster than overlayfs":                           1,
		"slacker: second run, times faster than overlayfs":                    0.5,
		"slacker: push, times faster than overlayfs":                          900,
		"overlayfs: the pull's part of the deployment cycle":                  90,
		"slacker: bytes fetched until hello, of the uncompressed image":       5,
	}
	for _, l := range d.Summary {
		if w, ok := want[l.What]; ok {
			if got := l.Ours["unlimited"]; math.Abs(got-w) > w/100 {
				t.Errorf("%s: got %v, want %v", l.What, got, w)
			}
			delete(want, l.What)
		}
	}
	for what := range want {
		t.Errorf("the summary lacks %q", what)
	}
	behind := map[string]Behind{}
	for _, b := range d.Behind {
		behind[b.What] = b
	}
	for what, median := range map[string]float64{"second run": 2, "time of redis SET/s": 2} {
		if b := behind[what]; b.Ours != "slacker" || b.Than != "overlayfs" || math.Abs(b.Median-median) > 0.01 || b.Images != b.Of {
			t.Errorf("%s: got %+v, want to be behind by %v", what, b, median)
		}
	}
	if b, ok := behind["deployment"]; ok {
		t.Errorf("we are not behind in deployment: %+v", b)
	}
}

// TestWords wants sentences that name driver, link, what, by how much and of how
// many images, and what of the paper's figures was missed.
func TestWords(t *testing.T) {
	d := sample()
	d.summarize()
	words := strings.Join(d.InWords, "\n")
	for _, w := range []string{
		"slacker, link unlimited: ", "a second run on the same worker takes 2 times as long as with overlayfs (3 of 3 images)", "redis SET/s is 1/2 of overlayfs's",
		"Below the paper, link unlimited: slacker: development cycle (push + pull + run), times faster than overlayfs 18.8x (paper 20x).",
	} {
		if !strings.Contains(words, w) {
			t.Errorf("the words lack %q:\n%s", w, words)
		}
	}
	if strings.Contains(words, "pull and run take") {
		t.Errorf("we are not behind in deployment:\n%s", words)
	}
	if !strings.Contains(d.Markdown(), "- slacker, link unlimited: ") {
		t.Error("the README's part lacks the words")
	}
}

// TestLearned wants a run with a learned trace to be compared as a driver of its own,
// and the cold one to stay what it is.
func TestLearned(t *testing.T) {
	d := sample()
	for n := range d.Records {
		if r := &d.Records[n]; r.Kind == measure.Cycle && r.Driver == "slacker" {
			r.Learned = &measure.Learned{Pull: 1e-6, Run: r.Run / 4, Bytes: 1e6}
		}
	}
	d.summarize()
	got := map[string]float64{}
	for _, l := range d.Summary {
		got[l.What] = l.Ours["unlimited"]
	}
	for what, want := range map[string]float64{"slacker: run, times faster than overlayfs": 1, "slacker learned: run, times faster than overlayfs": 4} {
		if math.Abs(got[what]-want) > 0.01 {
			t.Errorf("%s: got %v, want %v", what, got[what], want)
		}
	}
	for _, b := range d.Behind {
		if b.Than == "slacker" {
			t.Errorf("ours is compared with ours: %+v", b)
		}
	}
}

func TestRounds(t *testing.T) {
	d := sample()
	more := d.Records[0]
	more.Round = 1
	d.Records = append(d.Records, more)
	if got, want := d.Rounds(), "Rounds of cycles: link unlimited, 1 for 2 images; link unlimited, 2 for redis."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCoverage(t *testing.T) {
	d := sample()
	if got, want := d.Coverage(), "Images: link unlimited: 3."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	fewer := d.Records[0]
	fewer.Driver = "stargz"
	d.Records = append(d.Records, fewer)
	if got, want := d.Coverage(), "Images: link unlimited: overlayfs 3, stargz 1, slacker 3."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		v    []float64
		q, w float64
	}{{nil, 0.5, 0}, {[]float64{3}, 0.5, 3}, {[]float64{1, 3}, 0.5, 2}, {[]float64{5, 1, 3}, 0.5, 3}, {[]float64{1, 2, 3, 4}, 1, 4}} {
		if got := quantile(c.v, c.q); got != c.w {
			t.Errorf("quantile %v of %v: got %v, want %v", c.q, c.v, got, c.w)
		}
	}
}

// TestPage wants a page that stands alone, with whole plots and escaped text.
func TestPage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	if err := sample().Write(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path + ".html")
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	for _, w := range []string{"Beside the paper", "Where we are behind", "MultiMake", "Deduplication", "no &lt;such&gt; luck", "make &lt;b&gt;", "Many starts"} {
		if !strings.Contains(page, w) {
			t.Errorf("the page lacks %q", w)
		}
	}
	for _, w := range []string{"src=", "href=", "NaN", "Inf", "ZgotmplZ"} {
		if strings.Contains(page, w) {
			t.Errorf("the page has %q", w)
		}
	}
	plots := strings.Split(page, "<svg")[1:]
	if len(plots) < 10 {
		t.Errorf("the page has %d plots", len(plots))
	}
	for _, p := range plots {
		svg, _, _ := strings.Cut("<svg"+p, "</svg>")
		for x := xml.NewDecoder(strings.NewReader(svg + "</svg>")); ; {
			if _, err := x.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("a plot is no XML: %v\n%s", err, svg)
			}
		}
	}
}

func TestUpdateReadme(t *testing.T) {
	path := filepath.Join(t.TempDir(), "README.md")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("before\n" + tableBegins + "old\n" + tableEnds + "after\n")
	for range 2 {
		if err := sample().UpdateReadme(path); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	if !strings.HasPrefix(text, "before\n"+tableBegins+"| | paper | link unlimited |\n|---|---|---|\n| slacker: push") ||
		!strings.HasSuffix(text, "(paper 20x).\n"+tableEnds+"after\n") || strings.Contains(text, "old") {
		t.Errorf("got:\n%s", text)
	}
	write("no marks\n")
	if err := sample().UpdateReadme(path); err == nil {
		t.Error("a file without marks is changed")
	}
}
