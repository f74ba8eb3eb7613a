package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/slackerd/slacker"

// pkg is what go list tells of a package.
type pkg struct {
	ImportPath, Dir, Doc               string
	GoFiles, TestGoFiles, XTestGoFiles []string
	Imports, TestImports, XTestImports []string
}

// name is the path below the module.
func (p *pkg) name() string { return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/") }

func packages(t *testing.T) []*pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,GoFiles,TestGoFiles,XTestGoFiles,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var ps []*pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		p := new(pkg)
		if err := d.Decode(p); errors.Is(err, io.EOF) {
			return ps
		} else if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
}

// mayImport is the table of docs/ARCHITECTURE.md: which packages of ours each
// package may import. The commands, the rig and bench may import any but each
// other.
var mayImport = map[string][]string{
	"block":                           {},
	"config":                          {"block", "suggest", "access"},
	"suggest":                         {},
	"segment":                         {"block"},
	"cow":                             {"block"},
	"volume":                          {"block", "cow", "segment", "check"},
	"gc":                              {"block", "cow", "segment"},
	"check":                           {"block", "cow", "segment"},
	"scrub":                           {"block", "check"},
	"access":                          {"block"},
	"certs":                           {"block"},
	"nbdserver":                       {"block", "access"},
	"latency":                         {},
	"activity":                        {"block", "latency", "nbdserver"},
	"nbdserver/nbdtest":               {"block", "nbdserver"},
	"nbdclient":                       {"block"},
	"api":                             {"block", "api/slacker/v1", "api/slacker/v1/slackerv1connect"},
	"api/generate":                    {},
	"rig/guest/load":                  {},
	"apiserver":                       {"block", "access", "boottrace", "volume", "api", "api/slacker/v1", "api/slacker/v1/slackerv1connect"},
	"api/slacker/v1":                  {},
	"api/slacker/v1/slackerv1connect": {"api/slacker/v1"},
	"fusefile":                        {"block", "latency", "nbdclient"},
	"relay":                           {"block", "nbdclient"},
	"blockcache":                      {"block"},
	"boottrace":                       {"block"},
	"lazy":                            {"block", "blockcache", "boottrace", "nbdclient"},
	"worker":                          {"block", "api", "api/slacker/v1", "api/slacker/v1/slackerv1connect", "nbdclient", "fusefile", "relay", "certs", "blockcache", "boottrace", "latency", "lazy"},
	"naming":                          {},
	"image":                           {"block", "naming", "api", "api/slacker/v1", "api/slacker/v1/slackerv1connect", "nbdclient"},
	"snapshotter":                     {"block", "naming", "api", "api/slacker/v1", "api/slacker/v1/slackerv1connect", "boottrace", "nbdclient", "worker"},
	"stack":                           {},
	"stack/stacktest":                 {},
	"archtest":                        {},
}

// reasons are said when an import is refused.
var reasons = map[string]string{
	"nbdserver": "the protocol serves an interface of its own, so that it can be tested, fuzzed and reused without a store",
	"gc":        "the collector works on the map and the log through a small interface, so that volume may know nothing of it and no cycle arises",
	"block":     "the vocabulary is the leaf that all share",
	"cow":       "the map names addresses in segments but reads none, so that each is tested alone",
	"segment":   "the log knows nothing of what it carries, so that a fault of the map cannot become one of the log",
	"check":     "the checker looks at what is stored, not at what the store believes",
	"config":    "other packages get plain options; none reads the configuration",
}

func mayImportAny(name string) bool {
	return strings.HasPrefix(name, "cmd/") || name == "rig" || strings.HasPrefix(name, "bench")
}

func TestImportDirection(t *testing.T) {
	for _, p := range packages(t) {
		name := p.name()
		allowed, known := mayImport[name]
		if !known && !mayImportAny(name) {
			t.Errorf("package %s is not in the table of archtest: say there which packages it may import, so that directions stay a decision", name)
			continue
		}
		for _, i := range p.Imports {
			of, ours := strings.CutPrefix(i, module+"/")
			if !ours {
				continue
			}
			if strings.HasPrefix(of, "cmd/") || of == "rig" || of == "archtest" {
				t.Errorf("%s imports %s: nothing imports a program or tests", name, of)
			}
			if of == "config" && !strings.HasPrefix(name, "cmd/") {
				t.Errorf("%s imports config: only the commands do; %s", name, reasons["config"])
			}
			if known && !slices.Contains(allowed, of) {
				why := reasons[name]
				if why == "" {
					why = "the table in archtest and docs/ARCHITECTURE.md is what keeps the packages apart"
				}
				t.Errorf("%s imports %s, may import %v of ours: %s", name, of, allowed, why)
			}
		}
	}
}

// outsiders are modules that stay in one place.
var outsiders = []struct {
	prefix string
	except string // below the prefix, free
	in     []string
	why    string
}{
	{"github.com/cockroachdb/pebble", "github.com/cockroachdb/pebble/v2/vfs", []string{"cow"},
		"the map's engine can be exchanged only while its types stay in one package; its vfs is shared so that one crash clone cuts data and map at the same instant"},
	{"github.com/spf13/viper", "", []string{"config"}, "where settings come from is the business of config alone"},
	{"github.com/mdlayher/", "", []string{"worker"}, "only the worker talks to the kernel's NBD client"},
	{"github.com/spf13/cobra", "", []string{"cmd/"}, "packages have options, commands have flags"},
	{"github.com/prometheus", "", []string{"cmd/"}, "packages are given small interfaces to report to"},
}

func TestModulesStayInTheirPlace(t *testing.T) {
	for _, p := range packages(t) {
		for _, i := range p.Imports {
			for _, o := range outsiders {
				if !strings.HasPrefix(i, o.prefix) || o.except != "" && strings.HasPrefix(i, o.except) {
					continue
				}
				if !slices.ContainsFunc(o.in, func(in string) bool {
					return p.name() == in || strings.HasSuffix(in, "/") && strings.HasPrefix(p.name(), in)
				}) {
					t.Errorf("%s imports %s, which stays in %v: %s", p.name(), i, o.in, o.why)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 || strings.HasPrefix(p.name(), "api/slacker/") {
			continue // tests only, or generated
		}
		if len(p.Doc) < 20 {
			t.Errorf("%s has no package comment: a newcomer learns from it what the package is for", p.name())
		}
	}
}

// The budgets of files. Good storage code in Go has a median of 100 to 160
// lines.
const (
	maxLines     = 450
	maxTestLines = 600
)

func TestFilesStaySmall(t *testing.T) {
	for _, p := range packages(t) {
		if strings.HasPrefix(p.name(), "api/slacker/") {
			continue // generated
		}
		for _, f := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			b, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			limit := maxLines
			if strings.HasSuffix(f, "_test.go") {
				limit = maxTestLines
			}
			if n := bytes.Count(b, []byte("\n")); n > limit {
				t.Errorf("%s/%s has %d lines, want at most %d: a file is about one thing; split it", p.name(), f, n, limit)
			}
		}
	}
}

var (
	readmeMake   = regexp.MustCompile(`(?m)^ *(?:sudo )?(?:\./scripts/setup\.sh && )?make ([a-z]+)`)
	makeTarget   = regexp.MustCompile("(?m)^([a-z]+):")
	readmeScript = regexp.MustCompile(`\./(scripts/[a-z-]+\.sh)`)
	readmeLink   = regexp.MustCompile(`\]\(([^)#:]+)\)`)
)

func TestReadmeTellsTheTruth(t *testing.T) {
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	targets := map[string]bool{}
	for _, m := range makeTarget.FindAllStringSubmatch(read("Makefile"), -1) {
		targets[m[1]] = true
	}
	for _, doc := range []string{"README.md", "CONTRIBUTING.md"} {
		text := read(doc)
		made := readmeMake.FindAllStringSubmatch(text, -1)
		if len(made) == 0 {
			t.Errorf("%s names no make target: a reader wants a command to begin with", doc)
		}
		for _, m := range made {
			if !targets[m[1]] {
				t.Errorf("%s says make %s, which the Makefile does not have: a reader's first command must work", doc, m[1])
			}
		}
		files := slices.Concat(readmeScript.FindAllStringSubmatch(text, -1), readmeLink.FindAllStringSubmatch(text, -1))
		for _, m := range files {
			if _, err := os.Stat(filepath.Join("..", m[1])); err != nil {
				t.Errorf("%s names %s, which is not there: %v", doc, m[1], err)
			}
		}
	}
	if made := readmeMake.FindAllStringSubmatch(read("README.md"), 2); len(made) < 2 || made[0][1] != "demo" || made[1][1] != "check" {
		t.Errorf("the README's first two commands are %v, want make demo and make check: the first runs the main job, the second the tests", made)
	}
	if ci := read(".ci/run"); !strings.Contains(ci, "make check") || !strings.Contains(ci, "./scripts/setup.sh") {
		t.Error(".ci/run does not run setup.sh and make check: what continuous integration passes must be what the README tells to run")
	}
}
