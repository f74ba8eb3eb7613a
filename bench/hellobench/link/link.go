package link

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/slackerd/slacker/stack"
)

// Spec says what a link is like.
type Spec struct {
	Name      string        `json:"name"`
	BitsPerS  int64         `json:"bits_per_second"` // each direction; 0 is unlimited
	RoundTrip time.Duration `json:"round_trip_ns"`   // added, half in each direction
}

// The links that are measured.
var (
	Unlimited = Spec{Name: "unlimited"}
	Gigabit   = Spec{Name: "1g", BitsPerS: 1e9, RoundTrip: 500 * time.Microsecond}
	Slow      = Spec{Name: "100m", BitsPerS: 1e8, RoundTrip: 5 * time.Millisecond}
)

// Specs are all of them.
var Specs = []Spec{Unlimited, Gigabit, Slow}

func (s Spec) String() string {
	if s.BitsPerS == 0 {
		return "unlimited"
	}
	return fmt.Sprintf("%g Mbit/s, %v", float64(s.BitsPerS)/1e6, s.RoundTrip)
}

// The addresses of the two ends, in namespaces where nothing else is.
const (
	ServerAddress = "10.77.0.1"
	workerAddress = "10.77.0.2"
	device        = "link0"
)

// Link is two namespaces that are connected.
type Link struct {
	Spec   Spec
	Server stack.Namespace // its address is ServerAddress
	Worker stack.Namespace

	pipes []*pipe
}

// New makes the namespaces, named after prefix, and connects them.
func New(ctx context.Context, prefix string, s Spec) (*Link, error) {
	l := &Link{Spec: s, Server: stack.Namespace(prefix + "-s"), Worker: stack.Namespace(prefix + "-w")}
	if err := l.make(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("make link %s: %w", s.Name, err), l.Close())
	}
	return l, nil
}

func (l *Link) make(ctx context.Context) error {
	for _, ns := range []stack.Namespace{l.Server, l.Worker} {
		if err := ip(ctx, "netns", "add", string(ns)); err != nil {
			return err
		}
		if err := ip(ctx, "-n", string(ns), "link", "set", "lo", "up"); err != nil {
			return err
		}
	}
	if err := l.connect(ctx); err != nil {
		return err
	}
	for ns, address := range map[stack.Namespace]string{l.Server: ServerAddress, l.Worker: workerAddress} {
		if err := ip(ctx, "-n", string(ns), "address", "add", address+"/24", "dev", device); err != nil {
			return err
		}
		if err := ip(ctx, "-n", string(ns), "link", "set", device, "up"); err != nil {
			return err
		}
	}
	return nil
}

func (l *Link) connect(ctx context.Context) error {
	if l.Spec.BitsPerS == 0 {
		return ip(ctx, "-n", string(l.Server), "link", "add", device, "type", "veth", "peer", "name", device, "netns", string(l.Worker))
	}
	server, err := openTun(l.Server)
	if err != nil {
		return err
	}
	worker, err := openTun(l.Worker)
	if err != nil {
		return errors.Join(err, server.Close())
	}
	l.pipes = []*pipe{newPipe(l.Spec, server, worker), newPipe(l.Spec, worker, server)}
	return nil
}

// Counts are bytes that went over the link, with their headers.
type Counts struct {
	ToWorker, ToServer int64
}

// Sub is what was added since an earlier count.
func (c Counts) Sub(before Counts) Counts {
	return Counts{c.ToWorker - before.ToWorker, c.ToServer - before.ToServer}
}

// Counts reads the counters of the worker's end.
func (l *Link) Counts() (Counts, error) {
	var c Counts
	err := l.Worker.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		c, err = parseDev(string(b))
		return err
	})
	if err != nil {
		return c, fmt.Errorf("read the counters of link %s: %w", l.Spec.Name, err)
	}
	return c, nil
}

// parseDev finds bytes received and sent in /proc/net/dev.
func parseDev(text string) (Counts, error) {
	for line := range strings.Lines(text) {
		name, rest, found := strings.Cut(strings.TrimSpace(line), ":")
		f := strings.Fields(rest)
		if !found || name != device || len(f) < 9 {
			continue
		}
		in, err1 := strconv.ParseInt(f[0], 10, 64)
		out, err2 := strconv.ParseInt(f[8], 10, 64)
		return Counts{ToWorker: in, ToServer: out}, errors.Join(err1, err2)
	}
	return Counts{}, fmt.Errorf("want a line for %s, got %q", device, text)
}

// Close removes the namespaces. What runs in them keeps them alive until it ends.
func (l *Link) Close() error {
	var errs []error
	for _, p := range l.pipes {
		errs = append(errs, p.close())
	}
	l.pipes = nil
	for _, ns := range []stack.Namespace{l.Server, l.Worker} {
		if _, err := os.Stat("/run/netns/" + string(ns)); err == nil {
			errs = append(errs, ip(context.Background(), "netns", "delete", string(ns)))
		}
	}
	return errors.Join(errs...)
}

func ip(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
