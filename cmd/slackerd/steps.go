package main

import (
	"fmt"
	"strings"
	"time"
)

// programStarted is when this program began to do something of its own.
var programStarted = time.Now()

// stepDone is told of each step; tests end the process there.
var stepDone = func(string) {}

// step is a part of an upgrade that was done at a time.
type step struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

// steps are the parts of an upgrade, in order. The first is its beginning.
type steps []step

func (s *steps) mark(name string) { s.markAt(name, time.Now()) }

func (s *steps) markAt(name string, at time.Time) {
	*s = append(*s, step{name, at})
	stepDone(name)
}

// whole is the time from the first step to the last.
func (s steps) whole() time.Duration {
	if len(s) == 0 {
		return 0
	}
	return s[len(s)-1].At.Sub(s[0].At)
}

// String tells how long each step took.
func (s steps) String() string {
	var parts []string
	for i := 1; i < len(s); i++ {
		parts = append(parts, fmt.Sprintf("%s %v", s[i].Name, s[i].At.Sub(s[i-1].At).Round(10*time.Microsecond)))
	}
	return strings.Join(parts, ", ")
}
