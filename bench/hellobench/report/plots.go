package report

import (
	"fmt"
	"math"
	"sort"
	"strings"

	"github.com/slackerd/slacker/bench/hellobench/catalog"
	"github.com/slackerd/slacker/bench/hellobench/measure"
)

// Section is a part of the page: plots side by side below a heading.
type Section struct {
	Title, Text string
	Plots       []Plot
}

// sections are all plots that there is data for.
func (d *Data) sections() []Section {
	var all []Section
	for _, link := range d.links() {
		if s := d.cycleSection(link); len(s.Plots) > 0 {
			all = append(all, s)
		}
	}
	for _, s := range []Section{d.sizeSection(), d.bytesSection(), d.scaleSection(), d.longRunSection(), d.multiMakeSection(), d.spaceSection()} {
		if len(s.Plots) > 0 {
			all = append(all, s)
		}
	}
	return all
}

// distribution is a plot with a line for each driver.
func distribution(records []measure.Record, title, x string, f figure) Plot {
	p := Plot{Title: title, X: x, Y: "part of the images", LogX: true, Steps: true}
	for _, driver := range driversOf(records) {
		if v := values(perImage(records, driver, f)); len(v) > 0 {
			p.Series = append(p.Series, cdf(driver, v))
		}
	}
	return p
}

func (d *Data) cycleSection(link string) Section {
	records := d.pick(measure.Cycle, link)
	s := Section{Title: "Cycles over the link " + link, Text: "A worker that never saw the image pulls it and runs it until hello; then once more on the same worker."}
	for _, p := range []Plot{
		distribution(records, "Deployment: pull + run", "seconds", atLeast(deploy)),
		distribution(records, "Run, after the pull", "seconds", run),
		distribution(records, "Second run on the same worker", "seconds", again),
		distribution(records, "Push to an empty registry", "seconds", push),
		distribution(records, "Development: push + pull + run", "seconds", develop),
	} {
		if len(p.Series) > 0 {
			s.Plots = append(s.Plots, p)
		}
	}
	if len(records) > 0 {
		s.Plots = append(s.Plots, d.phases(records), d.byCategory(records))
	}
	return s
}

// phases are means over images: where the time goes.
func (d *Data) phases(records []measure.Record) Plot {
	p := Plot{Title: "Where the time goes, median over images", Y: "seconds", LogY: true, Labels: []string{"pull", "root", "create", "hello"}}
	for _, driver := range driversOf(records) {
		s := Series{Name: driver, Points: []Point{{Y: median(values(perImage(records, driver, pull)))}}}
		for n, name := range p.Labels[1:] {
			phase := func(r measure.Record) float64 {
				for _, ph := range r.Phases {
					if ph.Name == name {
						return ph.Seconds
					}
				}
				return 0
			}
			s.Points = append(s.Points, Point{float64(n), median(values(perImage(records, driver, phase)))})
		}
		if s.Points[0].Y < 0.001 {
			s.Points[0].Y = 0
		}
		p.Series = append(p.Series, s)
	}
	return p
}

func (d *Data) byCategory(records []measure.Record) Plot {
	p := Plot{Title: "Deployment by category, median", Y: "seconds", LogY: true}
	category := map[string]catalog.Category{}
	for _, i := range d.Images {
		category[i.Name] = i.Category
	}
	for _, c := range catalog.Categories {
		p.Labels = append(p.Labels, string(c))
	}
	for _, driver := range driversOf(records) {
		s := Series{Name: driver}
		for _, c := range catalog.Categories {
			var v []float64
			for i, x := range perImage(records, driver, atLeast(deploy)) {
				if category[i] == c {
					v = append(v, x)
				}
			}
			s.Points = append(s.Points, Point{Y: median(v)})
		}
		p.Series = append(p.Series, s)
	}
	return p
}

func (d *Data) sizeSection() Section {
	var compressed, whole []float64
	for _, i := range d.Images {
		compressed, whole = append(compressed, float64(i.Compressed)/1e6), append(whole, float64(i.Uncompressed)/1e6)
	}
	if len(whole) == 0 {
		return Section{}
	}
	return Section{Title: "Images", Plots: []Plot{{
		Title: "Size of images", X: "MB", Y: "part of the images", LogX: true, Steps: true,
		Series: []Series{cdf("compressed", compressed), cdf("uncompressed", whole)},
	}}}
}

// bytesSection is what came over the unlimited link until hello.
func (d *Data) bytesSection() Section {
	links := d.links()
	if len(links) == 0 {
		return Section{}
	}
	records := d.pick(measure.Cycle, links[0])
	// A kilobyte is as good as nothing.
	mega := func(f figure) figure { return func(r measure.Record) float64 { return math.Max(f(r), 1000) / 1e6 } }
	s := Section{Title: "Bytes fetched until hello", Text: "Over the link " + links[0] + ", to the worker, with headers. stargz fetches the rest in the background."}
	if p := distribution(records, "Pull and run", "MB", mega(fetched)); len(p.Series) > 0 {
		s.Plots = append(s.Plots, p)
	}
	if p := distribution(records, "Second run", "MB", mega(func(r measure.Record) float64 { return float64(r.Rest) })); len(p.Series) > 0 {
		s.Plots = append(s.Plots, p)
	}
	return s
}

func (d *Data) scaleSection() Section {
	s := Section{Title: "Many starts at once", Text: "A worker that never saw the image pulls it once and starts it N times; until the last says hello. Server and worker share the machine."}
	for _, link := range d.links() {
		byImage := map[string][]measure.Record{}
		for _, r := range d.pick(measure.Scale, link) {
			byImage[r.Image] = append(byImage[r.Image], r)
		}
		for _, image := range sortedKeys(byImage) {
			p := Plot{Title: image + ", link " + link, X: "starts at once", Y: "seconds", LogY: true}
			for _, driver := range driversOf(byImage[image]) {
				line := Series{Name: driver}
				for _, r := range byImage[image] {
					if r.Driver == driver {
						line.Points = append(line.Points, Point{float64(r.N), r.Pull + r.Run})
					}
				}
				sort.Slice(line.Points, func(a, b int) bool { return line.Points[a].X < line.Points[b].X })
				p.Series = append(p.Series, line)
			}
			s.Plots = append(s.Plots, p)
		}
	}
	return s
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(a, b int) bool {
		if len(keys[a]) != len(keys[b]) && strings.Contains(keys[a], ":") {
			return len(keys[a]) < len(keys[b]) // gcc:9 before gcc:10
		}
		return keys[a] < keys[b]
	})
	return keys
}

// longRunSection has one plot a server: their figures are far apart.
func (d *Data) longRunSection() Section {
	s := Section{Title: "Throughput of servers", Text: "redis-benchmark, pgbench (TPC-B) and ab, run in the image beside the server. overlayfs is a local disk."}
	for _, link := range d.links() {
		all := d.throughput(link)
		names := map[string]bool{}
		for _, figures := range all {
			for name := range figures {
				names[name] = true
			}
		}
		for _, name := range sortedKeys(names) {
			p := Plot{Title: name, Y: "per second", Labels: []string{""}}
			for _, driver := range driversOf(d.pick(measure.LongRun, link)) {
				p.Series = append(p.Series, Series{driver, []Point{{Y: all[driver][name]}}})
			}
			s.Plots = append(s.Plots, p)
		}
	}
	return s
}

func (d *Data) multiMakeSection() Section {
	s := Section{Title: "MultiMake", Text: "One program, built and run by several versions of a compiler, each on a worker that never saw it."}
	for _, link := range d.links() {
		records := d.pick(measure.MultiMake, link)
		versions := map[string]bool{}
		for _, r := range records {
			versions[r.Image] = true
		}
		if len(versions) == 0 {
			continue
		}
		p := Plot{Title: "Pull, build and run, link " + link, Y: "seconds", Labels: sortedKeys(versions)}
		for _, driver := range driversOf(records) {
			line, m := Series{Name: driver}, perImage(records, driver, deploy)
			for _, v := range p.Labels {
				line.Points = append(line.Points, Point{Y: m[v]})
			}
			p.Series = append(p.Series, line)
		}
		s.Plots = append(s.Plots, p)
	}
	return s
}

func (d *Data) spaceSection() Section {
	if d.Space == nil || d.Space.Set.Whole == 0 {
		return Section{}
	}
	var gzip, files, blocks []float64
	for _, i := range d.Space.Images {
		w := float64(i.Whole)
		gzip, files, blocks = append(gzip, w/float64(i.Gzip)), append(files, w/float64(i.UniqueFiles)), append(blocks, w/float64(i.UniqueBlock))
	}
	set, w := d.Space.Set, float64(d.Space.Set.Whole)
	bar := func(name string, v int64) Series { return Series{name, []Point{{Y: w / float64(max(1, v))}}} }
	return Section{
		Title: "Deduplication and compression",
		Text: fmt.Sprintf("Bytes of all files (%.1f GB over %d images) for each byte kept. Whole images by gzip, each layer once; different files once; different blocks of 4 KiB once, and those compressed one by one with zstd.",
			w/1e9, len(d.Space.Images)),
		Plots: []Plot{
			{Title: "Each image by itself", X: "bytes of files for a byte kept", Y: "part of the images", Steps: true,
				Series: []Series{cdf("gzip", gzip), cdf("files", files), cdf("4k blocks", blocks)}},
			{Title: "The whole set", Y: "bytes of files for a byte kept", Labels: []string{""},
				Series: []Series{bar("gzip", set.Gzip), bar("files", set.UniqueFiles), bar("4k blocks", set.UniqueBlock), bar("4k blocks + zstd", set.UniqueZstd)}},
		},
	}
}
