package main

import (
	"os"
	"regexp"
	"testing"
)

// documentsMetrics compares the table of docs/METRICS.md with what is exposed:
// the name and type of each metric of ours.
func documentsMetrics(t *testing.T, exposed string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := func(re, s string) map[string]string {
		m := map[string]string{}
		for _, row := range regexp.MustCompile(re).FindAllStringSubmatch(s, -1) {
			m[row[1]] = row[2]
		}
		return m
	}
	documented := rows("(?m)^\\| `(slacker_\\w+)` \\| (\\w+) \\|", string(text))
	got := rows(`(?m)^# TYPE (slacker_\w+) (\w+)$`, exposed)
	for name, kind := range got {
		if documented[name] != kind {
			t.Errorf("%s: exposed as %s, documented as %q", name, kind, documented[name])
		}
	}
	for name := range documented {
		if got[name] == "" {
			t.Errorf("%s: documented and not exposed", name)
		}
	}
}
