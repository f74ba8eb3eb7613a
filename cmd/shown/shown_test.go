package shown

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestCheck: what is shown and is not there is found.
func TestCheck(t *testing.T) {
	root := &cobra.Command{Use: "tool", Run: func(*cobra.Command, []string) {}}
	noun := &cobra.Command{Use: "thing"}
	list := &cobra.Command{Use: "list NAME", Run: func(*cobra.Command, []string) {}}
	list.Flags().Bool("all", false, "")
	noun.AddCommand(list)
	root.AddCommand(noun)
	root.PersistentFlags().String("server", "", "")
	page := "Ask `tool thing list web --all`, or:\n\n    tool thing list --server=x   # all of it\n    tool thing find web\n    tool thing list --most\n    toolbox x\n"
	faults, found := check(page, root)
	if found != 4 || len(faults) != 2 || !strings.Contains(faults[0], "find web: no such command") || !strings.Contains(faults[1], "no flag --most") {
		t.Errorf("found %d, faults %q", found, faults)
	}
}
