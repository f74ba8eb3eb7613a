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

// TestMetrics: what is exposed and not documented, of another type, or documented
// and not exposed, is found; of the others nothing is asked.
func TestMetrics(t *testing.T) {
	page := "| `a_one` | gauge | |\n| `a_two` | counter | |\n| `a_gone` | gauge | |\n| `a_b_x` | gauge | |\n"
	exposed := "# TYPE a_one gauge\n# TYPE a_two gauge\n# TYPE a_new gauge\n# TYPE go_x gauge\n"
	got := metricFaults(page, exposed, "a_", []string{"a_b_"})
	if want := []string{"a_new: exposed", "a_two: exposed as gauge", "a_gone: documented"}; len(got) != 3 || !strings.HasPrefix(got[0], want[0]) || !strings.HasPrefix(got[1], want[1]) || !strings.HasPrefix(got[2], want[2]) {
		t.Errorf("faults %q", got)
	}
}
