// Package catalog is HelloBench: the 57 images of Harter et al., "Slacker" (FAST
// 2016), in six categories, and what each does to say hello.
//
// A task is one of: a command with its arguments; a program on standard input;
// a server, which has started when it prints a line or answers HTTP. It is run
// in a network namespace of its own, so that a server has its port for itself.
package catalog

import "strings"

// Category is a kind of image.
type Category string

// The categories, in the order of the paper.
const (
	Distribution Category = "distribution"
	Database     Category = "database"
	Language     Category = "language"
	WebServer    Category = "web server"
	WebFramework Category = "web framework"
	Other        Category = "other"
)

// Categories are all of them, in the paper's order.
var Categories = []Category{Distribution, Database, Language, WebServer, WebFramework, Other}

// Task is what a container does to say hello. With Ready or URL it is a server,
// which is ended then; otherwise a command, which has to end by itself, with
// status 0.
type Task struct {
	Args   []string // run instead of the image's own command; empty is that
	Env    []string // NAME=VALUE, besides the image's own
	Stdin  string   // given on standard input, which then ends
	Mount  string   // a directory, which Files are in; it is writable
	Files  map[string]string
	Output string // a command: what it prints, among other things
	Ready  string // a server: part of a line that says that it is ready
	URL    string // a server: answered with a status below 500 when it is ready
}

// Server tells whether the task is a server's.
func (t Task) Server() bool { return t.Ready != "" || t.URL != "" }

// Image is an image of HelloBench.
type Image struct {
	Name     string
	Category Category
	// Task is for the image as registries have it.
	Task Task
	// Local is for the image as it is built here, where that differs (another
	// version, another path); nil is Task.
	Local *Task
}

// Run is the task to run, for an image that was built here or not.
func (i Image) Run(local bool) Task {
	if local && i.Local != nil {
		return *i.Local
	}
	return i.Task
}

// Find returns an image by name. A tag is ignored: gcc:12 says hello as gcc does.
func Find(name string) (Image, bool) {
	name, _, _ = strings.Cut(name, ":")
	for _, i := range images {
		if i.Name == name {
			return i, true
		}
	}
	return Image{}, false
}

// All returns the 57 images, by category.
func All() []Image { return images }
