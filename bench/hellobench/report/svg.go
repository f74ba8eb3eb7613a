package report

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Series is a line or a group of bars.
type Series struct {
	Name   string
	Points []Point
}

// Point is a point of a line.
type Point struct{ X, Y float64 }

// Plot is a chart, drawn as SVG.
type Plot struct {
	Title, X, Y string
	LogX, LogY  bool
	Steps       bool // lines go in steps, as those of distributions
	Series      []Series

	// Labels make it a chart of bars: a group of bars for each, the series'
	// points in that order.
	Labels []string
}

// The size of a plot.
const (
	width, height             = 560, 330
	left, right, top, bottom  = 62.0, 14.0, 34.0, 78.0
	innerWidth, innerHeight   = width - left - right, height - top - bottom
	legendRowHeight, legendAt = 16.0, height - 22.0
)

// palette is one colour a driver, the same in all plots.
var palette = map[string]string{
	"overlayfs": "#4e79a7", "stargz": "#f28e2b", "copy": "#9c755f", "qcow2": "#76b7b2",
	"slacker": "#e15759", "slacker-containerd": "#b07aa1", "slacker" + learned: "#ff9da7", "slacker-containerd" + learned: "#d4a6c8",
}

var others = []string{"#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#9c755f"}

func colour(name string, n int) string {
	if c, ok := palette[name]; ok {
		return c
	}
	return others[n%len(others)]
}

// axis maps values to pixels.
type axis struct {
	low, high float64
	log       bool
	from, to  float64
}

func (a axis) at(v float64) float64 {
	l, h := a.low, a.high
	if a.log {
		v, l, h = math.Log10(math.Max(v, a.low)), math.Log10(l), math.Log10(h)
	}
	if h == l {
		return a.from
	}
	return a.from + (v-l)/(h-l)*(a.to-a.from)
}

// ticks are round values on the axis.
func (a axis) ticks() []float64 {
	var all []float64
	if a.log {
		for e := math.Floor(math.Log10(a.low)); e <= math.Ceil(math.Log10(a.high)); e++ {
			if v := math.Pow(10, e); v >= a.low*0.999 && v <= a.high*1.001 {
				all = append(all, v)
			}
		}
		return all
	}
	step := math.Pow(10, math.Floor(math.Log10(a.high-a.low)))
	for _, f := range []float64{0.1, 0.2, 0.5, 1, 2} {
		if (a.high-a.low)/(step*f) <= 6 {
			step *= f
			break
		}
	}
	for v := math.Ceil(a.low/step) * step; v <= a.high+step/1e6; v += step {
		all = append(all, v)
	}
	return all
}

// span is an axis over all values of a plot.
func span(values []float64, log bool, from, to float64) axis {
	a := axis{low: math.Inf(1), high: math.Inf(-1), log: log, from: from, to: to}
	for _, v := range values {
		if log && v <= 0 {
			continue
		}
		a.low, a.high = math.Min(a.low, v), math.Max(a.high, v)
	}
	switch {
	case math.IsInf(a.low, 1):
		a.low, a.high = 1, 10
	case log:
		a.low, a.high = math.Pow(10, math.Floor(math.Log10(a.low))), math.Pow(10, math.Ceil(math.Log10(a.high)))
		if a.low == a.high {
			a.high *= 10
		}
	default:
		a.low, a.high = math.Min(0, a.low), a.high*1.05
		if a.high <= a.low {
			a.high = a.low + 1
		}
	}
	return a
}

// canvas collects SVG.
type canvas struct{ strings.Builder }

func (c *canvas) printf(format string, args ...any) { c.WriteString(fmt.Sprintf(format, args...)) }

func (c *canvas) line(x1, y1, x2, y2 float64, style string) {
	c.printf(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" %s/>`, x1, y1, x2, y2, style)
}

func (c *canvas) text(x, y float64, anchor, text, more string) {
	c.printf(`<text x="%.1f" y="%.1f" text-anchor="%s" %s>%s</text>`, x, y, anchor, more, html.EscapeString(text))
}

// SVG draws the plot.
func (p Plot) SVG() string {
	c := &canvas{}
	c.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="11" role="img">`, width, height, width, height)
	c.printf(`<title>%s</title>`, html.EscapeString(p.Title))
	c.text(left, 18, "start", p.Title, `font-weight="bold" font-size="13"`)
	var xs, ys []float64
	for _, s := range p.Series {
		for _, q := range s.Points {
			xs, ys = append(xs, q.X), append(ys, q.Y)
		}
	}
	y := span(ys, p.LogY, top+innerHeight, top)
	for _, v := range y.ticks() {
		c.line(left, y.at(v), left+innerWidth, y.at(v), `stroke="#ddd"`)
		c.text(left-6, y.at(v)+4, "end", number(v), "")
	}
	if len(p.Labels) > 0 {
		p.bars(c, y)
	} else {
		p.lines(c, span(xs, p.LogX, left, left+innerWidth), y)
	}
	c.line(left, top+innerHeight, left+innerWidth, top+innerHeight, `stroke="#333"`)
	c.line(left, top, left, top+innerHeight, `stroke="#333"`)
	c.text(left+innerWidth/2, top+innerHeight+34, "middle", p.X, "")
	c.printf(`<text transform="translate(14,%.1f) rotate(-90)" text-anchor="middle">%s</text>`, top+innerHeight/2, html.EscapeString(p.Y))
	p.legend(c)
	c.WriteString("</svg>")
	return c.String()
}

func (p Plot) lines(c *canvas, x, y axis) {
	for _, v := range x.ticks() {
		c.line(x.at(v), top, x.at(v), top+innerHeight, `stroke="#eee"`)
		c.text(x.at(v), top+innerHeight+16, "middle", number(v), "")
	}
	for n, s := range p.Series {
		var path strings.Builder
		for k, q := range s.Points {
			switch {
			case k == 0:
				fmt.Fprintf(&path, "M%.1f %.1f", x.at(q.X), y.at(q.Y))
			case p.Steps:
				fmt.Fprintf(&path, "H%.1fV%.1f", x.at(q.X), y.at(q.Y))
			default:
				fmt.Fprintf(&path, "L%.1f %.1f", x.at(q.X), y.at(q.Y))
			}
			if !p.Steps {
				c.printf(`<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`, x.at(q.X), y.at(q.Y), colour(s.Name, n))
			}
		}
		c.printf(`<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`, path.String(), colour(s.Name, n))
	}
}

func (p Plot) bars(c *canvas, y axis) {
	group := innerWidth / float64(len(p.Labels))
	bar := group * 0.8 / float64(max(1, len(p.Series)))
	zero := y.at(y.low)
	for g, label := range p.Labels {
		at := left + float64(g)*group
		c.text(at+group/2, top+innerHeight+16, "middle", label, "")
		for n, s := range p.Series {
			if g >= len(s.Points) || s.Points[g].Y <= 0 {
				continue
			}
			h := y.at(s.Points[g].Y)
			c.printf(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"><title>%s: %s</title></rect>`,
				at+group*0.1+float64(n)*bar, h, bar*0.92, zero-h, colour(s.Name, n), html.EscapeString(s.Name), number(s.Points[g].Y))
		}
	}
}

func (p Plot) legend(c *canvas) {
	at := left
	for n, s := range p.Series {
		c.printf(`<rect x="%.1f" y="%.1f" width="10" height="10" fill="%s"/>`, at, legendAt-9, colour(s.Name, n))
		c.text(at+14, legendAt, "start", s.Name, "")
		at += 24 + 6.4*float64(len(s.Name))
	}
}

// number is a number for people: three digits that count.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a == 0:
		return "0"
	case a >= 1e6:
		return fmt.Sprintf("%.3gM", v/1e6)
	case a >= 1e4:
		return fmt.Sprintf("%.3gk", v/1e3)
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// cdf is the distribution of values.
func cdf(name string, values []float64) Series {
	s := Series{Name: name}
	sorted := sorted(values)
	for n, v := range sorted {
		if n == 0 {
			s.Points = append(s.Points, Point{v, 0})
		}
		s.Points = append(s.Points, Point{v, float64(n+1) / float64(len(sorted))})
	}
	return s
}
