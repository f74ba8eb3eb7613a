// Package shown tests that the commands which a page of the documentation shows
// exist, with the flags shown.
package shown

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Check reads a page, finds the commands of the program of root, at least so
// many, and fails t for each that there is not.
func Check(t *testing.T, page string, root *cobra.Command, atLeast int) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	faults, found := check(string(text), root)
	if found < atLeast {
		t.Fatalf("found %d commands of %s, want at least %d: the expression does not fit the page", found, root.Name(), atLeast)
	}
	for _, fault := range faults {
		t.Error(fault)
	}
}

// check returns what is wrong in text, and how many commands it found.
func check(text string, root *cobra.Command) (faults []string, found int) {
	shown := regexp.MustCompile("(?m)(?:^    |`)"+root.Name()+"\\b( [^`#\n]*)?").FindAllStringSubmatch(text, -1)
	for _, m := range shown {
		cmd, rest, err := root.Find(strings.Fields(m[1]))
		if err != nil || cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
			faults = append(faults, strings.TrimSpace(m[0])+": no such command")
			continue
		}
		for _, arg := range rest {
			name, isFlag := strings.CutPrefix(arg, "--")
			name, _, _ = strings.Cut(name, "=")
			if isFlag && name != "help" && cmd.Flags().Lookup(name) == nil && cmd.InheritedFlags().Lookup(name) == nil {
				faults = append(faults, strings.TrimSpace(m[0])+": "+cmd.CommandPath()+" has no flag "+arg)
			}
		}
	}
	return faults, len(shown)
}
