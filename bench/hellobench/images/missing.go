package images

import (
	"slices"
	"strings"

	"github.com/slackerd/slacker/bench/hellobench/catalog"
)

// Why images of HelloBench cannot be built here.
const (
	otherDistro = "its packages are in no registry that is reached"
	noPackage   = "neither Debian, nor npm, nor a Go module has it"
	proprietary = "it is proprietary"
)

// missing are the images of HelloBench without a recipe.
var missing = map[string]string{
	"alpine":         otherDistro,
	"centos":         otherDistro,
	"cirros":         otherDistro,
	"crux":           otherDistro,
	"fedora":         otherDistro,
	"mageia":         otherDistro,
	"opensuse":       otherDistro,
	"oraclelinux":    otherDistro,
	"ubuntu":         otherDistro,
	"ubuntu-upstart": otherDistro + ", and upstart is no longer packaged",

	"cassandra":     noPackage,
	"crate":         noPackage,
	"elasticsearch": noPackage + "; npm has clients only",
	"mongo":         noPackage + "; what npm has downloads it from elsewhere",
	"mysql":         "only Debian's unstable suite has it, which changes daily; mariadb is built",
	"percona":       noPackage,
	"rethinkdb":     noPackage + "; Debian has dropped it",

	"glassfish":      noPackage + "; Debian has only libraries of it",
	"php-zendserver": proprietary,

	"iojs": noPackage + "; it became node, which is built",

	"drupal":    noPackage + "; Debian has dropped it",
	"ghost":     "npm has it, but not the compiled database driver it needs",
	"jenkins":   noPackage,
	"sonarqube": noPackage,
}

// State says of an image of HelloBench whether it can be built here.
type State struct {
	Image catalog.Image
	// Recipe is nil for an image that cannot be built.
	Recipe *Recipe
	// Built is nil for an image that is not in the cache.
	Built *Built
	// Reason says why an image cannot be built.
	Reason string
}

// States returns all images of HelloBench in its order, each followed by the
// further versions of it that are built here, with what is in the cache.
func States(dir string) ([]State, error) {
	s := &store{dir: dir}
	var states []State
	for _, i := range catalog.All() {
		states = append(states, State{Image: i, Reason: missing[i.Name]})
		for _, r := range All() {
			name, _, tagged := strings.Cut(r.Name, ":")
			if name != i.Name {
				continue
			}
			built, err := s.image(r)
			if err != nil {
				return nil, err
			}
			if tagged {
				i := i
				i.Name = r.Name
				states = append(states, State{Image: i, Recipe: r, Built: built})
				continue
			}
			states[len(states)-1].Recipe, states[len(states)-1].Built = r, built
		}
	}
	return states, nil
}

// Names returns the names of all recipes.
func Names() []string {
	var names []string
	for _, r := range All() {
		names = append(names, r.Name)
	}
	slices.Sort(names)
	return names
}
