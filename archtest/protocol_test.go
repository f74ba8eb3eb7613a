package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	testNamed    = regexp.MustCompile("`([a-z/]+\\.)?((?:Test|Fuzz)[A-Za-z0-9]+)(?:/([^`]+))?`")
	testDeclared = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9]+)\(`)
)

// testsOf returns the text of the file of each test of a package.
func testsOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testDeclared.FindAllStringSubmatch(string(b), -1) {
			tests[m[1]] = string(b)
		}
	}
	return tests
}

// TestProtocolRowsHaveTests wants each row of nbdserver/PROTOCOL.md to name tests
// that exist, so that what is claimed of the protocol stays tested.
func TestProtocolRowsHaveTests(t *testing.T) {
	b, err := os.ReadFile("../nbdserver/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]map[string]string{}
	rows := 0
	for i, line := range strings.Split(string(b), "\n") {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if !strings.HasPrefix(line, "| ") || len(cells) < 2 || strings.HasSuffix(line, "test |") || strings.HasPrefix(line, "| feature |") {
			continue
		}
		rows++
		for c, cell := range cells[1:] {
			named := testNamed.FindAllStringSubmatch(cell, -1)
			if last := c == len(cells)-2; len(named) == 0 && (last || strings.Contains(cell, "Test")) {
				t.Errorf("PROTOCOL.md:%d: %q names no test", i+1, strings.TrimSpace(cell))
			}
			for _, m := range named {
				dir := strings.TrimSuffix(m[1], ".")
				if dir == "" {
					dir = "nbdserver"
				}
				if packages[dir] == nil {
					packages[dir] = testsOf(t, dir)
				}
				text, ok := packages[dir][m[2]]
				if !ok || m[3] != "" && !strings.Contains(text, `"`+m[3]+`"`) {
					t.Errorf("PROTOCOL.md:%d: there is no %s in %s", i+1, strings.Trim(m[0], "`"), dir)
				}
			}
		}
	}
	if rows < 60 {
		t.Errorf("%d rows were found, want the tables", rows)
	}
}
