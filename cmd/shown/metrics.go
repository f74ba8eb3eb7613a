package shown

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Metrics compares the table of a page with the metrics in exposed, which is in
// Prometheus' text format: name and type of each whose name begins with prefix,
// and with none of others.
func Metrics(t *testing.T, page, exposed, prefix string, others ...string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range metricFaults(string(text), exposed, prefix, others) {
		t.Error(fault)
	}
}

func metricFaults(text, exposed, prefix string, others []string) (faults []string) {
	rows := func(re, s string) map[string]string {
		m := map[string]string{}
		for _, row := range regexp.MustCompile(re).FindAllStringSubmatch(s, -1) {
			other := func(p string) bool { return strings.HasPrefix(row[1], p) }
			if strings.HasPrefix(row[1], prefix) && !slices.ContainsFunc(others, other) {
				m[row[1]] = row[2]
			}
		}
		return m
	}
	documented := rows("(?m)^\\| `(\\w+)` \\| (\\w+) \\|", text)
	got := rows(`(?m)^# TYPE (\w+) (\w+)$`, exposed)
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if documented[name] != got[name] {
			faults = append(faults, name+": exposed as "+got[name]+`, documented as "`+documented[name]+`"`)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(documented)) {
		if got[name] == "" {
			faults = append(faults, name+": documented and not exposed")
		}
	}
	return faults
}
