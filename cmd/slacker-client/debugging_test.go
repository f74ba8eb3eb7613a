package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestDebuggingNamesWhatThereIs: each command of this program that
// docs/DEBUGGING.md shows exists, with the flags shown.
func TestDebuggingNamesWhatThereIs(t *testing.T) {
	text, err := os.ReadFile("../../docs/DEBUGGING.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile("(?m)(?:^    |`)slacker-client( [^`#\n]*)?").FindAllStringSubmatch(string(text), -1)
	if len(shown) < 5 {
		t.Fatalf("found %d commands: the expression does not fit the page", len(shown))
	}
	for _, m := range shown {
		cmd, rest, err := newRoot().Find(strings.Fields(m[1]))
		if err != nil || cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
			t.Errorf("%q: no such command: %v", m[0], err)
			continue
		}
		for _, arg := range rest {
			name, isFlag := strings.CutPrefix(arg, "--")
			if isFlag && name != "help" && cmd.Flags().Lookup(name) == nil && cmd.InheritedFlags().Lookup(name) == nil {
				t.Errorf("%q: %s has no flag %s", m[0], cmd.CommandPath(), arg)
			}
		}
	}
}
