package report

import (
	"sort"
	"strings"

	"github.com/slackerd/slacker/bench/hellobench/measure"
)

// Line is a line of the summary: a figure of ours, by link, and the paper's.
type Line struct {
	What  string             `json:"what"`
	Paper string             `json:"paper"`
	Ours  map[string]float64 `json:"ours"` // by link
	Unit  string             `json:"unit"` // "x" or "%"
	Main  bool               `json:"main"` // belongs into a README
}

// comparison is a ratio of medians by image: how many times faster is ours.
type comparison struct {
	what, paper string
	than, ours  string // drivers
	slow, fast  figure // of than and of ours
	main        bool   // for a README
}

// comparisons are the paper's, and those that it did not have.
func comparisons(ours string) []comparison {
	return []comparison{
		{"push, times faster than overlayfs", "153x", "overlayfs", ours, push, push, true},
		{"pull, times faster than overlayfs", "72x", "overlayfs", ours, pull, pull, !strings.HasSuffix(ours, learned)},
		{"run, times faster than overlayfs", "0.85x (17 % slower)", "overlayfs", ours, run, run, true},
		{"second run, times faster than overlayfs", "", "overlayfs", ours, again, again, false},
		{"deployment cycle (pull + run), times faster than overlayfs", "5x", "overlayfs", ours, deploy, deploy, true},
		{"development cycle (push + pull + run), times faster than overlayfs", "20x", "overlayfs", ours, develop, develop, true},
		{"deployment cycle, times faster than stargz", "", "stargz", ours, deploy, deploy, true},
		{"deployment cycle, times faster than qcow2", "", "qcow2", ours, deploy, deploy, ours == "slacker"},
		{"deployment cycle, times faster than a full copy", "", "copy", ours, deploy, deploy, false},
	}
}

// atLeast keeps what takes no time (a pull that has nothing to do) from being
// infinitely fast: it counts as a millisecond.
func atLeast(f figure) figure {
	return func(r measure.Record) float64 {
		if v := f(r); v > 0 && v < 0.001 {
			return 0.001
		} else {
			return v
		}
	}
}

// summarize fills in Summary and Behind.
func (d *Data) summarize() {
	d.Summary, d.Behind = nil, nil
	for _, ours := range []string{"slacker", "slacker" + learned, "slacker-containerd", "slacker-containerd" + learned} {
		for _, c := range comparisons(ours) {
			line := Line{What: ours + ": " + c.what, Paper: c.paper, Unit: "x", Main: c.main, Ours: map[string]float64{}}
			for _, link := range d.links() {
				records := d.pick(measure.Cycle, link)
				if r := ratios(perImage(records, c.than, atLeast(c.slow)), perImage(records, c.ours, atLeast(c.fast))); len(r) > 0 {
					line.Ours[link] = median(r)
				}
			}
			if len(line.Ours) > 0 {
				d.Summary = append(d.Summary, line)
			}
		}
	}
	d.shares()
	d.behind()
	d.InWords = d.Words()
}

// shares are parts of a whole: of the time, of the bytes.
func (d *Data) shares() {
	pulled := Line{What: "overlayfs: the pull's part of the deployment cycle", Paper: "76 %", Unit: "%", Main: true, Ours: map[string]float64{}}
	read := Line{What: "slacker: bytes fetched until hello, of the uncompressed image", Paper: "6.4 %", Unit: "%", Main: true, Ours: map[string]float64{}}
	sizes := map[string]float64{}
	for _, i := range d.Images {
		sizes[i.Name] = float64(i.Uncompressed)
	}
	for _, link := range d.links() {
		records := d.pick(measure.Cycle, link)
		if r := ratios(perImage(records, "overlayfs", pull), perImage(records, "overlayfs", deploy)); len(r) > 0 {
			pulled.Ours[link] = 100 * median(r)
		}
		if r := ratios(perImage(records, "slacker", fetched), sizes); len(r) > 0 {
			read.Ours[link] = 100 * median(r)
		}
	}
	for _, l := range []Line{pulled, read} {
		if len(l.Ours) > 0 {
			d.Summary = append(d.Summary, l)
		}
	}
}

// Behind is where a driver of ours takes more than another, by more than noise.
type Behind struct {
	Link   string  `json:"link"`
	Ours   string  `json:"ours"`
	Than   string  `json:"than"`
	What   string  `json:"what"`
	Images int     `json:"images"` // for how many
	Of     int     `json:"of"`     // of how many
	Median float64 `json:"median"` // of the ratio ours/theirs over all of them
	Worst  float64 `json:"worst"`
}

// noise is what a single measurement may be off.
const noise = 1.05

// compared is what behind looks at.
var compared = []struct {
	name string
	of   figure
}{{"deployment", deploy}, {"run", run}, {"second run", again}, {"bytes fetched", fetched}, {"push", push}}

// behind lists it, worst medians first.
func (d *Data) behind() {
	for _, link := range d.links() {
		records := d.pick(measure.Cycle, link)
		for _, ours := range driversOf(records) {
			for _, than := range driversOf(records) {
				if !isOurs(ours) || isOurs(than) {
					continue
				}
				for _, c := range compared {
					d.compare(Behind{Link: link, Ours: ours, Than: than, What: c.name},
						ratios(perImage(records, ours, c.of), perImage(records, than, c.of)))
				}
			}
		}
		d.behindInThroughput(link)
	}
	sort.SliceStable(d.Behind, func(a, b int) bool { return d.Behind[a].Median > d.Behind[b].Median })
}

func isOurs(driver string) bool { return strings.HasPrefix(driver, "slacker") }

// compare adds a line if any of the ratios is beyond noise.
func (d *Data) compare(b Behind, ratios []float64) {
	for _, v := range ratios {
		if v > noise {
			b.Images++
		}
	}
	if b.Images > 0 {
		b.Of, b.Median, b.Worst = len(ratios), median(ratios), quantile(ratios, 1)
		d.Behind = append(d.Behind, b)
	}
}

// behindInThroughput compares the servers with overlayfs, a local disk.
func (d *Data) behindInThroughput(link string) {
	all := d.throughput(link)
	for _, ours := range []string{"slacker-containerd", "slacker"} {
		for _, name := range sortedKeys(all[ours]) {
			if v, w := all[ours][name], all["overlayfs"][name]; v > 0 && w > 0 {
				d.compare(Behind{Link: link, Ours: ours, Than: "overlayfs", What: "time of " + name}, []float64{w / v})
			}
		}
	}
}

// throughput is the median figures, by driver and name.
func (d *Data) throughput(link string) map[string]map[string]float64 {
	all := map[string]map[string][]float64{}
	for _, r := range d.pick(measure.LongRun, link) {
		if all[r.Driver] == nil {
			all[r.Driver] = map[string][]float64{}
		}
		for name, v := range r.Figures {
			name = r.Image + " " + name
			all[r.Driver][name] = append(all[r.Driver][name], v)
		}
	}
	out := map[string]map[string]float64{}
	for driver, figures := range all {
		out[driver] = map[string]float64{}
		for name, v := range figures {
			out[driver][name] = median(v)
		}
	}
	return out
}
