package scrub

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/check"
	"go.uber.org/zap"
)

const (
	// sliceBlocks is how many live blocks a slice reads (4 GiB). Each reads the
	// whole map once, and holds a view of it while it runs.
	sliceBlocks = 1 << 20
	// retryAfter is how long a scrub waits when a slice could not be read.
	retryAfter = time.Minute
)

// Store is what is verified.
type Store interface {
	Scrub(ctx context.Context, after block.SegmentID, budget int64, throttle func(ctx context.Context, bytes int) error) (check.Slice, error)
	SaveScrub(state []byte) error
	LoadScrub() ([]byte, error)
}

// Options configure a Scrubber.
type Options struct {
	Logger *zap.Logger
	// BytesPerSecond bounds how fast data is read; 0 is no bound.
	BytesPerSecond int64
	// Every is the time from the beginning of a scrub to that of the next; 0: only
	// when told.
	Every time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time

	sliceBlocks int64 // for tests
}

// Scrubber verifies a store. Its methods may run concurrently.
type Scrubber struct {
	s    Store
	o    Options
	wake chan struct{}

	mu    sync.Mutex
	state State
	halt  context.CancelFunc // ends the slice that is being read
}

// New returns a scrubber of a store, as far as the last one came.
func New(s Store, o Options) (*Scrubber, error) {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.sliceBlocks == 0 {
		o.sliceBlocks = sliceBlocks
	}
	b, err := s.LoadScrub()
	if err != nil {
		return nil, err
	}
	state, err := load(b)
	if err != nil {
		o.Logger.Warn("the scrub begins anew", zap.Error(err))
	}
	return &Scrubber{s: s, o: o, state: state, wake: make(chan struct{}, 1)}, nil
}

// Status returns the state.
func (c *Scrubber) Status() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state
	s.Damages = slices.Clone(s.Damages)
	return s
}

// Start begins a scrub, or lets one go on that was stopped; one that runs goes on.
func (c *Scrubber) Start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Running {
		return nil
	}
	was := c.state
	c.state.Running = true
	if c.state.After == 0 {
		c.state = State{Running: true, Started: c.o.Now(), Finished: was.Finished, Runs: was.Runs}
	}
	if err := c.save(); err != nil {
		c.state = was
		return err
	}
	c.nudge()
	return nil
}

// Stop makes the scrub rest until it is started again.
func (c *Scrubber) Stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.state.Running {
		return nil
	}
	c.state.Running = false
	if c.halt != nil {
		c.halt()
	}
	return c.save()
}

// save is called with mu held.
func (c *Scrubber) save() error {
	b, err := json.Marshal(&c.state)
	if err != nil {
		return block.Errorf(block.Internal, "state of the scrub: %w", err)
	}
	return c.s.SaveScrub(b)
}

func (c *Scrubber) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run scrubs when started, and by schedule, until ctx ends.
func (c *Scrubber) Run(ctx context.Context) {
	for ctx.Err() == nil {
		wait, running := c.due()
		if running {
			wait = 0
			if !c.slice(ctx) {
				wait = retryAfter
			}
		}
		if running && wait == 0 {
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-c.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// due says whether a scrub runs; one whose time has come is started. Else it says
// how long to wait.
func (c *Scrubber) due() (wait time.Duration, running bool) {
	s := c.Status()
	switch {
	case s.Running:
		return 0, true
	case c.o.Every == 0 || s.After != 0: // never, or stopped by somebody
		return time.Hour, false
	}
	if wait = s.Started.Add(c.o.Every).Sub(c.o.Now()); wait > 0 {
		return min(wait, time.Hour), false
	}
	if err := c.Start(); err != nil {
		c.o.Logger.Warn("the scrub does not start", zap.Error(err))
		return retryAfter, false
	}
	return 0, true
}

// slice verifies the next part and keeps what it found. It returns false when it
// could not.
func (c *Scrubber) slice(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	after := c.state.After
	c.halt = cancel
	bytesPerSecond := c.o.BytesPerSecond
	c.mu.Unlock()
	rate := &limit{bytesPerSecond: bytesPerSecond}
	got, err := c.s.Scrub(ctx, after, c.o.sliceBlocks, rate.wait)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.halt = nil
	if err != nil {
		if ctx.Err() != nil {
			return true // stopped
		}
		c.state.Problem = err.Error()
		c.o.Logger.Warn("a part of the store could not be scrubbed", zap.Error(err))
		return false
	}
	for _, d := range c.state.add(got.Damages) {
		c.o.Logger.Error("scrub: damage", zap.String("kind", d.Kind), zap.String("object", d.Object), zap.String("detail", d.Detail), zap.Strings("affected", d.Affected))
	}
	c.state.Problem = ""
	c.state.After = got.Next
	c.state.Done += got.Blocks
	c.state.Total = max(got.Total, c.state.Done)
	if got.Next == 0 {
		c.state.Running = false
		c.state.Finished = c.o.Now()
		c.state.Runs++
		c.state.Total = c.state.Done
		c.o.Logger.Info("scrub finished", zap.Uint64("blocks", c.state.Done), zap.Int("damages", len(c.state.Damages)))
	}
	if err := c.save(); err != nil {
		c.o.Logger.Warn("the state of the scrub is not kept", zap.Error(err))
	}
	return true
}

// limit bounds a rate.
type limit struct {
	bytesPerSecond int64
	next           time.Time
}

func (l *limit) wait(ctx context.Context, bytes int) error {
	if l.bytesPerSecond == 0 {
		return ctx.Err()
	}
	now := time.Now()
	if l.next.Before(now) {
		l.next = now
	}
	pause := l.next.Sub(now)
	l.next = l.next.Add(time.Duration(float64(bytes) / float64(l.bytesPerSecond) * float64(time.Second)))
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
