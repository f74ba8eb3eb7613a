package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// verbs say what a comparison is about: "its run takes 2x as long as overlayfs'".
var verbs = map[string]struct{ subject, unit string }{
	"deployment":    {"pull and run take", "as long"},
	"run":           {"the first run takes", "as long"},
	"second run":    {"a second run on the same worker takes", "as long"},
	"bytes fetched": {"pull and run fetch", "as many bytes"},
	"push":          {"a push takes", "as long"},
}

// Words say in sentences where ours is behind: one for each of our drivers and each
// link, by medians, then what of the paper's figures was missed.
func (d *Data) Words() []string {
	var all []string
	for _, ours := range driverOrder {
		for _, link := range d.links() {
			if !isOurs(ours) {
				continue
			}
			if s := d.sentence(ours, link); s != "" {
				all = append(all, s)
			}
		}
	}
	if s := d.belowThePaper(); s != "" {
		all = append(all, s)
	}
	return all
}

// sentence is what a driver of ours is behind in over a link; empty if it is not.
func (d *Data) sentence(ours, link string) string {
	var parts []string
	for _, b := range d.Behind {
		if b.Ours != ours || b.Link != link || b.Median <= noise || b.Than == "copy" { // a copy has all before it runs: the tables tell
			continue
		}
		v, known := verbs[b.What]
		if name, isTime := strings.CutPrefix(b.What, "time of "); isTime {
			parts = append(parts, fmt.Sprintf("%s is 1/%s of %s's", name, number(b.Median), b.Than))
		} else if known {
			parts = append(parts, fmt.Sprintf("%s %s times %s as with %s (%d of %d images)", v.subject, number(b.Median), v.unit, b.Than, b.Images, b.Of))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprintf("%s, link %s: %s.", ours, link, strings.Join(parts, "; "))
}

// belowThePaper lists figures of ours, over the first link, that are below those of
// the paper.
func (d *Data) belowThePaper() string {
	links := d.links()
	if len(links) == 0 {
		return ""
	}
	var parts []string
	for _, l := range d.Summary {
		figure, _, isFactor := strings.Cut(l.Paper, "x")
		paper, err := strconv.ParseFloat(figure, 64)
		if got, measured := l.Ours[links[0]]; isFactor && err == nil && measured && got < paper {
			parts = append(parts, fmt.Sprintf("%s %sx (paper %sx)", l.What, number(got), figure))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprintf("Below the paper, link %s: %s.", links[0], strings.Join(slices.Compact(parts), "; "))
}
