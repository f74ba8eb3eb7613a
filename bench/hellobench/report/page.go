package report

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"os"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/slackerd/slacker/bench/hellobench/measure"
)

//go:embed page.html
var pageText string

// row is an image's line of the table.
type row struct {
	Image
	Cells []cell
}

type cell struct{ Pull, Run, Again, Fetched string }

// table is the table of one link.
type table struct {
	Link    string
	Drivers []string
	Rows    []row
}

func (d *Data) tables() []table {
	var all []table
	for _, link := range d.links() {
		records := d.pick(measure.Cycle, link)
		if len(records) == 0 {
			continue
		}
		t := table{Link: link, Drivers: driversOf(records)}
		for _, i := range d.Images {
			r := row{Image: i}
			found := false
			for _, driver := range t.Drivers {
				get := func(f figure) float64 { return perImage(records, driver, f)[i.Name] }
				c := cell{seconds(get(pull)), seconds(get(run)), seconds(get(again)), mega(get(fetched))}
				found = found || c.Run != "-"
				r.Cells = append(r.Cells, c)
			}
			if found {
				t.Rows = append(t.Rows, r)
			}
		}
		all = append(all, t)
	}
	return all
}

func seconds(v float64) string {
	switch {
	case v == 0:
		return "-"
	case v < 0.001:
		return "0"
	}
	return fmt.Sprintf("%.2f", v)
}

func mega(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", v/1e6)
}

// failures are the measurements that failed.
func (d *Data) failures() []string {
	var all []string
	for _, r := range d.Records {
		if r.Error != "" {
			all = append(all, fmt.Sprintf("%s %s, %s, link %s: %s", r.Kind, r.Image, r.Driver, r.Link, r.Error[:min(300, len(r.Error))]))
		}
	}
	return all
}

// Write writes PATH.json and PATH.html.
func (d *Data) Write(path string) error {
	d.summarize()
	b, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".json", append(b, '\n'), 0o644); err != nil {
		return err
	}
	page, err := template.New("page").Funcs(template.FuncMap{
		"svg":    func(p Plot) template.HTML { return template.HTML(p.SVG()) }, // its texts are escaped
		"bytes":  func(n int64) string { return humanize.Bytes(uint64(n)) },
		"value":  value,
		"number": number,
	}).Parse(pageText)
	if err != nil {
		return err
	}
	f, err := os.Create(path + ".html")
	if err != nil {
		return err
	}
	err = page.Execute(f, map[string]any{
		"Data": d, "Coverage": d.Coverage(), "Rounds": d.Rounds(), "Links": d.links(), "Sections": d.sections(), "Tables": d.tables(), "Failures": d.failures(),
	})
	return errors.Join(err, f.Close())
}

func value(l Line, link string) string {
	v, ok := l.Ours[link]
	switch {
	case !ok:
		return ""
	case l.Unit == "%":
		return fmt.Sprintf("%.1f %%", v)
	}
	return number(v) + "x"
}

// Markdown is the main lines of the summary as a table, and where we are behind.
func (d *Data) Markdown() string {
	d.summarize()
	var b strings.Builder
	links := d.links()
	b.WriteString("| | paper |")
	for _, link := range links {
		b.WriteString(" link " + link + " |")
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(links)) + "\n")
	for _, l := range d.Summary {
		if !l.Main {
			continue
		}
		fmt.Fprintf(&b, "| %s | %s |", l.What, l.Paper)
		for _, link := range links {
			fmt.Fprintf(&b, " %s |", value(l, link))
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "\n%s %s\n", d.Coverage(), d.Rounds())
	if len(d.InWords) > 0 {
		b.WriteString("\nWhere we are behind, by medians:\n\n")
		for _, s := range d.InWords {
			b.WriteString("- " + s + "\n")
		}
	}
	return b.String()
}

// The lines in a README that the table is between.
const (
	tableBegins = "<!-- hellobench report writes this table -->\n"
	tableEnds   = "<!-- end of the table -->\n"
)

// UpdateReadme puts the table into a file, between its two marks.
func (d *Data) UpdateReadme(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(b), tableBegins)
	_, after, ends := strings.Cut(rest, tableEnds)
	if !begins || !ends {
		return fmt.Errorf("%s: want the lines %q and %q", path, strings.TrimSpace(tableBegins), strings.TrimSpace(tableEnds))
	}
	return os.WriteFile(path, []byte(before+tableBegins+d.Markdown()+tableEnds+after), 0o644)
}
