package measure

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/slackerd/slacker/bench/hellobench/drive"
)

// Kind is what a record is about.
type Kind string

// The kinds of measurements.
const (
	Cycle     Kind = "cycle"     // pull, run, run again, push
	Scale     Kind = "scale"     // N starts at once
	LongRun   Kind = "longrun"   // throughput of a server
	MultiMake Kind = "multimake" // a program built by one compiler version
)

// Phase is a part of the time until hello.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"s"`
}

// Record is one measurement. Times are in seconds; what was not measured is zero.
type Record struct {
	Kind   Kind   `json:"kind"`
	Image  string `json:"image"`
	Driver string `json:"driver"`
	Link   string `json:"link"`
	Round  int    `json:"round"`
	N      int    `json:"n,omitempty"` // starts at once

	Pull      float64 `json:"pull_s"`
	Run       float64 `json:"run_s"`                  // to hello; of the last of N
	Mean      float64 `json:"mean_s,omitempty"`       // of N
	Again     float64 `json:"again_s,omitempty"`      // the second run on the same worker
	Push      float64 `json:"push_s,omitempty"`       // of what was pulled
	Phases    []Phase `json:"phases,omitempty"`       // of Run
	Second    []Phase `json:"again_phases,omitempty"` // of Again
	PullBytes int64   `json:"pull_bytes,omitempty"`   // over the link to the worker
	RunBytes  int64   `json:"run_bytes,omitempty"`    // likewise, until hello
	Rest      int64   `json:"again_bytes,omitempty"`  // likewise, in the second run
	PushBytes int64   `json:"push_bytes,omitempty"`   // over the link to the server
	// Learned is of another worker that never saw the image, after the server has
	// learned from the runs above; nil where a server does not learn.
	Learned *Learned `json:"learned,omitempty"`
	Wall    float64  `json:"wall_s,omitempty"` // of the measurement with all around it

	// Figures are those of the kind: requests per second, by name.
	Figures map[string]float64 `json:"figures,omitempty"`

	Error string    `json:"error,omitempty"`
	At    time.Time `json:"at"`
}

// Learned is the deployment on a worker of which the server knows what it will read.
type Learned struct {
	Pull   float64 `json:"pull_s"`
	Run    float64 `json:"run_s"`
	Bytes  int64   `json:"bytes"` // over the link to the worker
	Phases []Phase `json:"phases,omitempty"`
}

// Deploy is the time of the deployment cycle.
func (r Record) Deploy() float64 { return r.Pull + r.Run }

// Develop is the time of the development cycle.
func (r Record) Develop() float64 { return r.Push + r.Pull + r.Run }

// key is what a record is found by.
func (r Record) key() string {
	return fmt.Sprintf("%s %s %s %s %d %d", r.Kind, r.Link, r.Image, r.Driver, r.Round, r.N)
}

func phases(s *drive.Started) []Phase {
	var all []Phase
	for _, p := range s.Phases {
		all = append(all, Phase{p.Name, p.Took.Seconds()})
	}
	return all
}

// Log is a file of records.
type Log struct {
	mu   sync.Mutex
	file *os.File
	all  []Record
	keys map[string]bool
}

// OpenLog opens a log, making it if it is not there. The last line is dropped if it
// was cut short. Failed measurements are forgotten: they are made again.
func OpenLog(path string) (*Log, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	l := &Log{keys: map[string]bool{}}
	old, err := ReadRecords(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if l.file, err = os.CreateTemp(filepath.Dir(path), "records"); err != nil {
		return nil, err
	}
	for _, r := range old {
		if r.Error == "" {
			if err := l.Add(r); err != nil {
				return nil, errors.Join(err, l.Close())
			}
		}
	}
	if err := os.Rename(l.file.Name(), path); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// ReadRecords reads the records of a log.
func ReadRecords(path string) ([]Record, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	var all []Record
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r Record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			break // cut short by a kill
		}
		all = append(all, r)
	}
	return all, lines.Err()
}

// Has tells whether the measurement was made.
func (l *Log) Has(r Record) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.keys[r.key()]
}

// Add writes a record.
func (l *Log) Add(r Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := l.file.Write(append(line, '\n')); err != nil {
		return err
	}
	l.all = append(l.all, r)
	l.keys[r.key()] = true
	return nil
}

// Records are all of them.
func (l *Log) Records() []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Record(nil), l.all...)
}

// Close closes the file.
func (l *Log) Close() error { return l.file.Close() }
