package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// builderVersion is part of every layer's identity. It goes up when the same
// recipe comes to give other bytes.
const builderVersion = 1

// Recipe says how an image of HelloBench is made.
type Recipe struct {
	// Name is the image's name in HelloBench, with a tag where there are several.
	Name string
	// Top is the last layer.
	Top *Layer
	// Config is what a container of it runs and with what settings.
	Config v1.Config
	// VersionOf is the package whose version is that of the image; empty is that
	// of the suite.
	VersionOf string
	// Note says how it differs from the image of the paper, where it does in kind.
	Note string
}

// Layer is a line of a Dockerfile: what is done on the layer below it. Just one
// of Base, Installed, GoProgram and Below is set.
type Layer struct {
	// Below is the layer this one is made on.
	Below *Layer `json:"-"`

	// Base is a Debian suite: the smallest system of it.
	Base string `json:",omitempty"`
	// Installed is a Debian package of this machine, whose programs are the layer.
	Installed string `json:",omitempty"`
	// GoProgram is a main package of this module, built without anything around.
	GoProgram string `json:",omitempty"`

	// Packages are Debian packages to install.
	Packages []string `json:",omitempty"`
	// Files are put in place before Run.
	Files []File `json:",omitempty"`
	// Run is a shell script, run in the image.
	Run string `json:",omitempty"`
}

// File is a file of an image.
type File struct {
	Path    string
	Content string
	Mode    uint32
}

// on makes a layer on l that installs packages.
func (l *Layer) install(packages ...string) *Layer { return &Layer{Below: l, Packages: packages} }

// run makes a layer on l by a script.
func (l *Layer) run(script string) *Layer { return &Layer{Below: l, Run: script} }

// files makes a layer on l with files.
func (l *Layer) files(files ...File) *Layer { return &Layer{Below: l, Files: files} }

// then adds a script to a layer that is being described: one line of a
// Dockerfile that installs and configures.
func (l *Layer) then(script string) *Layer {
	l.Run = script
	return l
}

// chain returns the layers from the lowest up to l.
func (l *Layer) chain() []*Layer {
	if l == nil {
		return nil
	}
	return append(l.Below.chain(), l)
}

// suite is the Debian suite that the chain stands on, or empty.
func (l *Layer) suite() string { return l.chain()[0].Base }

// ID is the identity of the layer and all below it: it changes with anything
// in their description.
func (l *Layer) ID() string {
	below := ""
	if l.Below != nil {
		below = l.Below.ID()
	}
	data, err := json.Marshal(struct {
		Version int
		Below   string
		Layer   *Layer
	}{builderVersion, below, l})
	if err != nil {
		panic(err) // strings and numbers
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}

// String is the layer as a Dockerfile would have it.
func (l *Layer) String() string {
	switch {
	case l.Base != "":
		return "FROM debian:" + l.Base
	case l.Installed != "":
		return "COPY the programs of " + l.Installed
	case l.GoProgram != "":
		return "COPY the program " + l.GoProgram
	}
	var parts []string
	if len(l.Packages) > 0 {
		parts = append(parts, "RUN apt-get install "+strings.Join(l.Packages, " "))
	}
	for _, f := range l.Files {
		parts = append(parts, "COPY "+f.Path)
	}
	if l.Run != "" {
		parts = append(parts, "RUN "+strings.Join(strings.Fields(l.Run), " "))
	}
	return strings.Join(parts, "; ")
}

// ID is the identity of the image.
func (r *Recipe) ID() string {
	data, err := json.Marshal(struct {
		Top    string
		Config v1.Config
	}{r.Top.ID(), r.Config})
	if err != nil {
		panic(err) // strings and numbers
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}
