package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/slackerd/slacker/bench/hellobench/catalog"
	"github.com/slackerd/slacker/bench/hellobench/link"
	"github.com/slackerd/slacker/bench/hellobench/measure"
	"github.com/slackerd/slacker/bench/hellobench/space"
)

// Machine is where it was measured.
type Machine struct {
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	Memory     int64  `json:"memory_bytes"`
	Kernel     string `json:"kernel"`
	System     string `json:"system"`
	Containerd string `json:"containerd"`
}

// Image is an image that was measured.
type Image struct {
	Name         string           `json:"name"`
	Category     catalog.Category `json:"category"`
	Version      string           `json:"version,omitempty"`
	Compressed   int64            `json:"compressed_bytes"`
	Uncompressed int64            `json:"uncompressed_bytes"`
	Layers       int              `json:"layers"`
}

// Missing is an image of HelloBench that was not.
type Missing struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Data is all of a report: what the JSON file has.
type Data struct {
	Name    string    `json:"name"`
	At      time.Time `json:"at"`
	Commit  string    `json:"commit"`
	Command string    `json:"command"`
	Machine Machine   `json:"machine"`
	// StargzLevel is the gzip level of images that were converted for stargz; 0 is
	// the converter's own.
	StargzLevel int              `json:"estargz_compression_level,omitempty"`
	Images      []Image          `json:"images"`
	Missing     []Missing        `json:"missing"`
	Records     []measure.Record `json:"records"`
	Space       *space.Result    `json:"space,omitempty"`
	// Summary is filled in by Write.
	Summary []Line   `json:"summary"`
	Behind  []Behind `json:"behind"`
	InWords []string `json:"behind_in_words"`
}

// pick are the records of a kind, over a link.
func (d *Data) pick(kind measure.Kind, link string) []measure.Record {
	var some []measure.Record
	for _, r := range d.Records {
		if r.Kind != kind || r.Link != link || r.Error != "" {
			continue
		}
		some = append(some, r)
		if l := r.Learned; l != nil {
			some = append(some, measure.Record{
				Kind: kind, Link: link, Image: r.Image, Round: r.Round, Driver: r.Driver + learned,
				Pull: l.Pull, Run: l.Run, RunBytes: l.Bytes, Phases: l.Phases,
			})
		}
	}
	return some
}

// learned marks a driver whose server has learned from another worker's run what
// this one will read.
const learned = " learned"

// links and drivers are those that were measured, links from fast to slow, drivers in
// the order of the palette.
func (d *Data) links() []string {
	var all []string
	for _, l := range link.Specs {
		if slices.ContainsFunc(d.Records, func(r measure.Record) bool { return r.Link == l.Name }) {
			all = append(all, l.Name)
		}
	}
	return all
}

var driverOrder = []string{"overlayfs", "stargz", "copy", "qcow2", "slacker-containerd", "slacker-containerd" + learned, "slacker", "slacker" + learned}

func driversOf(records []measure.Record) []string {
	var all []string
	for _, d := range driverOrder {
		if slices.ContainsFunc(records, func(r measure.Record) bool { return r.Driver == d }) {
			all = append(all, d)
		}
	}
	return all
}

// figure is one number of a record.
type figure func(measure.Record) float64

func deploy(r measure.Record) float64  { return r.Pull + r.Run }
func pull(r measure.Record) float64    { return r.Pull }
func run(r measure.Record) float64     { return r.Run }
func again(r measure.Record) float64   { return r.Again }
func push(r measure.Record) float64    { return r.Push }
func fetched(r measure.Record) float64 { return float64(r.PullBytes + r.RunBytes) }

func develop(r measure.Record) float64 {
	if r.Push == 0 {
		return 0
	}
	return r.Push + r.Pull + r.Run
}

// perImage is the median of a figure over rounds, by image, for a driver; images
// where it is zero are left out.
func perImage(records []measure.Record, driver string, f figure) map[string]float64 {
	all := map[string][]float64{}
	for _, r := range records {
		if r.Driver == driver && f(r) > 0 {
			all[r.Image] = append(all[r.Image], f(r))
		}
	}
	out := map[string]float64{}
	for i, v := range all {
		out[i] = median(v)
	}
	return out
}

func values(m map[string]float64) []float64 {
	var v []float64
	for _, x := range m {
		v = append(v, x)
	}
	return sorted(v)
}

func sorted(v []float64) []float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v
}

func median(v []float64) float64 { return quantile(v, 0.5) }

// quantile is between the two nearest values.
func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := sorted(v)
	at := q * float64(len(s)-1)
	n := int(at)
	if n+1 >= len(s) {
		return s[len(s)-1]
	}
	return s[n] + (at-float64(n))*(s[n+1]-s[n])
}

// ratios are a[i]/b[i] for the images that both have.
func ratios(a, b map[string]float64) []float64 {
	var r []float64
	for i, v := range a {
		if w := b[i]; w > 0 && v > 0 {
			r = append(r, v/w)
		}
	}
	return sorted(r)
}

// Measured is how many of HelloBench's images have been pulled and run; variants of
// one (gcc:9) are not of these.
func (d *Data) Measured() int {
	names := map[string]bool{}
	for _, r := range d.Records {
		if r.Kind == measure.Cycle && r.Error == "" && !strings.Contains(r.Image, ":") {
			names[r.Image] = true
		}
	}
	return len(names)
}

// Coverage says over how many images the medians are, by driver where they differ.
func (d *Data) Coverage() string {
	var parts []string
	for _, link := range d.links() {
		records := d.pick(measure.Cycle, link)
		var each []string
		most := 0
		for _, driver := range driversOf(records) {
			n := len(perImage(records, driver, run))
			most = max(most, n)
			each = append(each, fmt.Sprintf("%s %d", driver, n))
		}
		same := fmt.Sprint(most)
		if slices.ContainsFunc(each, func(s string) bool { return !strings.HasSuffix(s, " "+same) }) {
			same = strings.Join(each, ", ")
		}
		parts = append(parts, fmt.Sprintf("link %s: %s", link, same))
	}
	return "Images: " + strings.Join(parts, "; ") + "."
}

// Rounds says of how many rounds the medians of cycles are.
func (d *Data) Rounds() string {
	var parts []string
	for _, link := range d.links() {
		byRounds := map[int][]string{}
		for _, i := range d.Images {
			rounds := map[int]bool{}
			for _, r := range d.pick(measure.Cycle, link) {
				if r.Image == i.Name {
					rounds[r.Round] = true
				}
			}
			if n := len(rounds); n > 0 {
				byRounds[n] = append(byRounds[n], i.Name)
			}
		}
		for _, n := range slices.Sorted(maps.Keys(byRounds)) {
			names := byRounds[n]
			of := fmt.Sprintf("%d images", len(names))
			if n > 1 {
				of = strings.Join(names, ", ")
			}
			parts = append(parts, fmt.Sprintf("link %s, %d for %s", link, n, of))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return "Rounds of cycles: " + strings.Join(parts, "; ") + "."
}
