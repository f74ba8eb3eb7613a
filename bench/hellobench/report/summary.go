package report

import (
	"fmt"

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
		{"pull, times faster than overlayfs", "72x", "overlayfs", ours, pull, pull, true},
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
	for _, ours := range []string{"slacker", "slacker-containerd"} {
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

// behind says where a driver of ours is slower than another, by more than noise.
func (d *Data) behind() {
	for _, link := range d.links() {
		records := d.pick(measure.Cycle, link)
		for _, ours := range []string{"slacker", "slacker-containerd"} {
			for _, than := range driversOf(records) {
				if than == ours || than == "slacker" || than == "slacker-containerd" {
					continue
				}
				d.behindThan(records, link, ours, than)
			}
		}
	}
	d.behindInThroughput()
}

// compared is what behind looks at.
var compared = []struct {
	name string
	of   figure
}{{"deployment", deploy}, {"run", run}, {"second run", again}, {"bytes fetched", fetched}}

func (d *Data) behindThan(records []measure.Record, link, ours, than string) {
	const noise = 1.05
	for _, c := range compared {
		r := ratios(perImage(records, ours, c.of), perImage(records, than, c.of))
		slower := 0
		for _, v := range r {
			if v > noise {
				slower++
			}
		}
		if slower > 0 {
			d.Behind = append(d.Behind, fmt.Sprintf("%s, link %s: %s is more than with %s for %d of %d images (median ratio %.2f, worst %.2f)",
				ours, link, c.name, than, slower, len(r), median(r), r[len(r)-1]))
		}
	}
}

// behindInThroughput compares the servers with overlayfs, a local disk.
func (d *Data) behindInThroughput() {
	for _, link := range d.links() {
		local := d.throughput(link)["overlayfs"]
		for _, ours := range []string{"slacker", "slacker-containerd"} {
			figures := d.throughput(link)[ours]
			for _, name := range sortedKeys(figures) {
				v := figures[name]
				if w := local[name]; w > 0 && v < w/1.05 {
					d.Behind = append(d.Behind, fmt.Sprintf("%s, throughput of %s: %.2f of that on the local disk", ours, name, v/w))
				}
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
