package main

import (
	"testing"

	"github.com/slackerd/slacker/cmd/shown"
)

// TestDebuggingNamesWhatThereIs: each command of this program that
// docs/DEBUGGING.md shows exists, with the flags shown.
func TestDebuggingNamesWhatThereIs(t *testing.T) {
	shown.Check(t, "../../docs/DEBUGGING.md", newRoot(), 1)
}
