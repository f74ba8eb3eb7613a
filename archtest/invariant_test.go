package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// invariantsOf are the packages whose invariants have numbers of their own, by
// the letter.
var invariantsOf = map[string]string{"S": "segment", "M": "cow", "V": "volume", "G": "gc", "N": "snapshotter", "R": "relay"}

var (
	invariantStated = regexp.MustCompile(`(?m)^//\t([SMVGNR][0-9]+)  \S`)
	invariantCited  = regexp.MustCompile(`\b[SMVGNR][0-9]+\b`)
)

// TestInvariantsAreCited wants each invariant of the store to be named where the
// code holds it and where a test tries to break it.
func TestInvariantsAreCited(t *testing.T) {
	stated := map[string]bool{}
	cited := map[string]map[string]bool{"code": {}, "test": {}}
	for _, p := range packages(t) {
		for _, f := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			if p.name() == "archtest" {
				continue
			}
			b, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			text := string(b)
			kind := "code"
			if strings.HasSuffix(f, "_test.go") {
				kind = "test"
			} else if doc, code, found := strings.Cut(text, "\npackage "); found && strings.HasPrefix(text, "// Package ") {
				text = code // the doc states, and does not cite
				for _, m := range invariantStated.FindAllStringSubmatch(doc, -1) {
					if id := m[1]; stated[id] || invariantsOf[id[:1]] != p.name() {
						t.Errorf("%s states %s: a number is stated once, in the package its letter is for", p.name(), id)
					}
					stated[m[1]] = true
				}
			}
			for _, id := range invariantCited.FindAllString(text, -1) {
				if of := invariantsOf[id[:1]]; of == p.name() || slices.Contains(mayImport[p.name()], of) {
					cited[kind][id] = true
				}
			}
		}
	}
	if len(stated) < 20 {
		t.Errorf("%d invariants are stated: want those of all of %v", len(stated), invariantsOf)
	}
	for kind, ids := range cited {
		for id := range stated {
			if !ids[id] {
				t.Errorf("%s: not cited in %s: say where it is held, so that who changes that place knows", id, kind)
			}
		}
		for id := range ids {
			if !stated[id] {
				t.Errorf("a %s cites %s, which no package comment states", kind, id)
			}
		}
	}
}
