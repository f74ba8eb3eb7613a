package drive

import (
	"context"
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/slackerd/slacker/bench/hellobench/catalog"
)

// Image is an image of the set, and what is known of it.
type Image struct {
	Name   string // with a tag where there are several
	Digest string
	Chain  string // what our snapshotter calls it at slackerd
	Config v1.Config
	Task   catalog.Task
}

// Phase is a part of the time until hello.
type Phase struct {
	Name string
	Took time.Duration
}

// Started is an image that runs, and has said hello.
type Started struct {
	Phases []Phase
	// Pid is its first process.
	Pid int
	// End ends it and removes what was its own. It waits until that is done.
	End func(context.Context) error
}

// Total is the time from Run to hello.
func (s *Started) Total() time.Duration {
	var d time.Duration
	for _, p := range s.Phases {
		d += p.Took
	}
	return d
}

// Driver is a way to run images. Its methods may be called for different images,
// and Run for the same, at the same time.
type Driver interface {
	Name() string
	// Start starts what the driver needs; Stop ends it.
	Start(context.Context) error
	Stop()
	// Prepare makes the image ready at the server.
	Prepare(context.Context, Image) error
	// Pull brings the image to the worker.
	Pull(context.Context, Image) error
	// Run starts the image, after Pull, and returns when it has said hello.
	Run(ctx context.Context, i Image, id string) (*Started, error)
	// Forget makes the worker forget the image, which has ended everywhere.
	Forget(context.Context, Image) error
}

// Pusher is a driver that can push an image that it has pulled to where nothing of
// it is yet.
type Pusher interface {
	// Push tells how long that took, without what it made ready before.
	Push(ctx context.Context, i Image) (took time.Duration, err error)
}

// Keeper is a driver that does not keep what Prepare made of all images.
type Keeper interface {
	// Keep makes it again for an image, unless it is there.
	Keep(context.Context, Image) error
}

// Learner is a driver whose server learns from starts what later ones will read, also
// of workers that never saw the image.
type Learner interface {
	// Unlearn makes it forget that, of all images.
	Unlearn() error
	// Learned tells whether it has learned since.
	Learned() bool
}

// Unlearn does so for a driver if it is a learner.
func Unlearn(d Driver) error {
	if l, learns := d.(Learner); learns {
		return l.Unlearn()
	}
	return nil
}

// Keep does so for a driver if it is one that wants it.
func Keep(ctx context.Context, d Driver, i Image) error {
	k, wants := d.(Keeper)
	if !wants {
		return nil
	}
	if err := k.Keep(ctx, i); err != nil {
		return fmt.Errorf("keep %s for %s: %w", i.Name, d.Name(), err)
	}
	return nil
}

// Exec runs a program in the container, or chroot, and returns what it printed.
func (s *Started) Exec(ctx context.Context, args ...string) (string, error) {
	enter := []string{"nsenter", fmt.Sprintf("--target=%d", s.Pid), "--mount", "--net", "--pid", "--ipc", "--root", "--wd=/", "--"}
	return command(ctx, "", append(enter, args...)...)
}

// stopwatch cuts time into phases.
type stopwatch struct {
	phases []Phase
	last   time.Time
}

func startWatch() *stopwatch { return &stopwatch{last: time.Now()} }

func (s *stopwatch) lap(name string) {
	now := time.Now()
	s.phases = append(s.phases, Phase{name, now.Sub(s.last)})
	s.last = now
}
