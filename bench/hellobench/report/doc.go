// Package report makes of what was measured one JSON file and one page of HTML,
// with its plots inside, beside the figures of the paper.
package report
