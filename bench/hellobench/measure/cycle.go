package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/slackerd/slacker/bench/hellobench/drive"
)

// Session measures on one bed.
type Session struct {
	Bed      *drive.Bed
	Drivers  []drive.Driver
	Images   []drive.Image
	Push     bool      // measure pushes
	Seconds  int       // about how long each throughput is measured
	Until    time.Time // nothing is begun later; zero is no limit
	Log      *Log
	Progress io.Writer

	done, total int
	started     time.Time
	measured    int // by this session
}

// say prints a line of progress.
func (s *Session) say(format string, args ...any) {
	left := ""
	if s.measured > 2 && s.done < s.total {
		each := time.Since(s.started) / time.Duration(s.measured)
		left = fmt.Sprintf(" (%v left)", (each * time.Duration(s.total-s.done)).Round(time.Second))
	}
	_, _ = fmt.Fprintf(s.Progress, "hellobench: [%d/%d] %s%s\n", s.done, s.total, fmt.Sprintf(format, args...), left)
}

// atMost is how long a measurement may take: then it has failed, and the next one is
// made.
const atMost = 6 * time.Minute

// ErrTime tells that measurements are left for want of time.
var ErrTime = errors.New("the time is over")

// Measure makes the measurements of a matrix that are not in the log. One that
// fails is recorded, and the others go on; the error is of the first that an
// interrupt, the log or the time made impossible.
func (s *Session) Measure(ctx context.Context, m Matrix) error {
	records := m.Records()
	s.begin(len(records))
	for _, r := range records {
		d, i, err := s.find(r)
		if err != nil {
			return err
		}
		measured := map[Kind]func(context.Context, drive.Driver, drive.Image, *Record) error{
			Cycle: s.cycle, Scale: s.scale, LongRun: s.longRun, MultiMake: s.multiMake,
		}[r.Kind]
		if err := s.once(ctx, r, func(r *Record) error {
			if err := errors.Join(drive.Keep(ctx, d, i), drive.Unlearn(d)); err != nil {
				return err
			}
			bounded, cancel := context.WithTimeout(ctx, atMost)
			defer cancel()
			started := time.Now()
			err := measured(bounded, d, i, r)
			r.Wall = time.Since(started).Seconds()
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// find finds the driver and the image of a record.
func (s *Session) find(r Record) (drive.Driver, drive.Image, error) {
	d := slices.IndexFunc(s.Drivers, func(d drive.Driver) bool { return d.Name() == r.Driver })
	i := slices.IndexFunc(s.Images, func(i drive.Image) bool { return i.Name == r.Image })
	if d < 0 || i < 0 {
		return nil, drive.Image{}, fmt.Errorf("measure %s with %s: not of this session", r.Image, r.Driver)
	}
	return s.Drivers[d], s.Images[i], nil
}

func (s *Session) begin(total int) {
	s.done, s.total, s.started, s.measured = 0, total, time.Now(), 0
}

// once makes a measurement that is not in the log, and writes it there.
func (s *Session) once(ctx context.Context, r Record, make func(*Record) error) error {
	s.done++
	if s.Log.Has(r) {
		return nil
	}
	if !s.Until.IsZero() && time.Now().After(s.Until) {
		return ErrTime
	}
	r.At = time.Now()
	err := make(&r)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.measured++
	if err != nil {
		r.Error = err.Error()
	}
	s.say("%s", r.String())
	return s.Log.Add(r)
}

// String is a record for people.
func (r Record) String() string {
	what := fmt.Sprintf("%s %s %s", r.Link, r.Image, r.Driver)
	switch {
	case r.Error != "":
		first, _, _ := strings.Cut(r.Error, "\n")
		return what + ": " + first
	case r.Kind == Scale:
		return fmt.Sprintf("%s: %d at once: pull %.2f s, run %.2f s, mean %.2f s", what, r.N, r.Pull, r.Run, r.Mean)
	case r.Kind == LongRun:
		return fmt.Sprintf("%s: %v", what, r.Figures)
	}
	line := fmt.Sprintf("%s: pull %.2f s, %s; run %.2f s, %s; again %.2f s", what, r.Pull, humanize.IBytes(uint64(r.PullBytes)),
		r.Run, humanize.IBytes(uint64(r.RunBytes)), r.Again)
	if r.Push > 0 {
		line += fmt.Sprintf("; push %.2f s", r.Push)
	}
	if l := r.Learned; l != nil {
		line += fmt.Sprintf("; learned: pull %.2f s, run %.2f s, %s", l.Pull, l.Run, humanize.IBytes(uint64(l.Bytes)))
	}
	return line
}

// counted times f and counts what comes to the worker meanwhile.
func (s *Session) counted(f func() error) (seconds float64, toWorker, toServer int64, err error) {
	before, err := s.Bed.Link.Counts()
	if err != nil {
		return 0, 0, 0, err
	}
	started := time.Now()
	if err := f(); err != nil {
		return 0, 0, 0, err
	}
	took := time.Since(started)
	after, err := s.Bed.Link.Counts()
	c := after.Sub(before)
	return took.Seconds(), c.ToWorker, c.ToServer, err
}

// cycle pulls, runs, runs again, pushes and forgets; and pulls and runs on another
// worker, if the server has learned from that.
func (s *Session) cycle(ctx context.Context, d drive.Driver, i drive.Image, r *Record) error {
	err := s.deploy(ctx, d, i, r)
	err = errors.Join(err, d.Forget(context.WithoutCancel(ctx), i))
	l, learns := d.(drive.Learner)
	if err != nil || !learns || !l.Learned() {
		return err
	}
	if err := s.learned(ctx, d, i, r); err != nil {
		err = fmt.Errorf("with what was learned: %w", err)
		return errors.Join(err, d.Forget(context.WithoutCancel(ctx), i))
	}
	return d.Forget(context.WithoutCancel(ctx), i)
}

// learned measures the deployment on a worker that has nothing.
func (s *Session) learned(ctx context.Context, d drive.Driver, i drive.Image, r *Record) (err error) {
	r.Learned = new(Learned)
	var pulled, ran int64
	r.Learned.Pull, pulled, _, err = s.counted(func() error { return d.Pull(ctx, i) })
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	r.Learned.Phases, err = s.run(ctx, d, i, "learned", &r.Learned.Run, &ran)
	r.Learned.Bytes = pulled + ran
	return err
}

// deploy pulls, runs, runs again and pushes.
func (s *Session) deploy(ctx context.Context, d drive.Driver, i drive.Image, r *Record) (err error) {
	r.Pull, r.PullBytes, _, err = s.counted(func() error { return d.Pull(ctx, i) })
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	r.Phases, err = s.run(ctx, d, i, "first", &r.Run, &r.RunBytes)
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	if r.Second, err = s.run(ctx, d, i, "again", &r.Again, &r.Rest); err != nil {
		return fmt.Errorf("run again: %w", err)
	}
	pusher, can := d.(drive.Pusher)
	if !s.Push || !can {
		return nil
	}
	before, err := s.Bed.Link.Counts()
	if err != nil {
		return err
	}
	took, err := pusher.Push(ctx, i)
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	after, err := s.Bed.Link.Counts()
	r.Push, r.PushBytes = took.Seconds(), after.Sub(before).ToServer
	return err
}

// run runs an image to hello, and ends it.
func (s *Session) run(ctx context.Context, d drive.Driver, i drive.Image, what string, seconds *float64, bytes *int64) ([]Phase, error) {
	var started *drive.Started
	var err error
	id := containerID(i, d, what, 0)
	*seconds, *bytes, _, err = s.counted(func() error {
		started, err = d.Run(ctx, i, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	*seconds = started.Total().Seconds()
	return phases(started), started.End(context.WithoutCancel(ctx))
}

// containerID is a name for a container that no other has on this machine.
func containerID(i drive.Image, d drive.Driver, what string, n int) string {
	return fmt.Sprintf("hb-%s-%s-%s-%d-%d", strings.NewReplacer(":", "-", "/", "-").Replace(i.Name), d.Name(), what, n, time.Now().UnixNano()%1e9)
}
