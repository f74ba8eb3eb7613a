package rounds

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// Column is a column of a table of figures.
type Column struct {
	Title string
	Cell  func(f *Figure) string
}

// Of is a column of medians with so many digits after the point.
func Of(title string, digits int, values func(f *Figure) []float64) Column {
	return Column{title, func(f *Figure) string { return fmt.Sprintf("%.*f", digits, Median(values(f))) }}
}

// Print prints a table to standard output: load and name, and the columns.
func Print(what string, figures []*Figure, columns ...Column) error {
	rows := [][]string{{"load", what}}
	for _, c := range columns {
		rows[0] = append(rows[0], c.Title)
	}
	for _, f := range figures {
		row := []string{f.Load, f.Name}
		for _, c := range columns {
			row = append(row, c.Cell(f))
		}
		rows = append(rows, row)
	}
	return PrintRows(rows)
}

// PrintRows prints rows of cells, aligned to the right.
func PrintRows(rows [][]string) error {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range rows {
		_, _ = fmt.Fprintln(w, strings.Join(row, "\t")+"\t") // to memory
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := os.Stdout.WriteString(out.String())
	return err
}

// Median of no values is 0.
func Median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s) == 0 {
		return 0
	}
	return (s[len(s)/2] + s[(len(s)-1)/2]) / 2
}

// Quantile returns the value that the share q of all does not exceed; of none 0.
func Quantile(v []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s) == 0 {
		return 0
	}
	return s[max(0, min(len(s), int(math.Ceil(q*float64(len(s)))))-1)]
}
