package drive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/slackerd/slacker/bench/hellobench/catalog"
)

// HelloTimeout is how long a task may take.
const HelloTimeout = 90 * time.Second

// probeInterval is how often a server that does not answer is asked again.
const probeInterval = 2 * time.Millisecond

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// output is what a task prints, and tells when a text is in it.
type output struct {
	mu    sync.Mutex
	text  bytes.Buffer
	want  string
	found chan struct{} // closed when the text was printed
}

const maxOutput = 1 << 20

func newOutput(want string) *output { return &output{want: want, found: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.text.Len() < maxOutput {
		o.text.Write(p)
	}
	select {
	case <-o.found:
	default:
		if o.want != "" && bytes.Contains(o.text.Bytes(), []byte(o.want)) {
			close(o.found)
		}
	}
	return len(p), nil
}

// tail is the end of it, for messages.
func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := o.text.Bytes()
	return strings.TrimSpace(string(b[max(0, len(b)-2000):]))
}

// exit is how a task ended.
type exit struct {
	status int
	err    error
}

// running is a task that was started.
type running struct {
	out    *output
	exited <-chan exit // gets one value when it has ended, and all output was read
	dial   dialer      // from where its servers are
}

// wanted is the text that tells that a task has said hello.
func wanted(t catalog.Task) string {
	if t.Ready != "" {
		return t.Ready
	}
	return t.Output
}

// hello waits until a task has said hello: a command by ending well, a server by
// its line or its answer. The error has what was printed.
func (r running) hello(ctx context.Context, t catalog.Task) error {
	ctx, cancel := context.WithTimeout(ctx, HelloTimeout)
	defer cancel()
	answered := make(chan struct{})
	var probing sync.WaitGroup
	defer probing.Wait()
	defer cancel()
	if t.URL != "" {
		probing.Go(func() { probe(ctx, r.dial, t.URL, answered) })
	}
	var ready <-chan struct{}
	if t.Ready != "" {
		ready = r.out.found
	}
	select {
	case <-ready:
		return nil
	case <-answered:
		return nil
	case e := <-r.exited:
		return r.judge(t, e)
	case <-ctx.Done():
		return fmt.Errorf("no hello: %w; it printed: %s", ctx.Err(), r.out.tail())
	}
}

// judge says whether a task that has ended did well.
func (r running) judge(t catalog.Task, e exit) error {
	if t.Server() {
		return fmt.Errorf("the server ended with status %d, %v; it printed: %s", e.status, e.err, r.out.tail())
	}
	if e.status != 0 || e.err != nil {
		return fmt.Errorf("ended with status %d, %v; it printed: %s", e.status, e.err, r.out.tail())
	}
	select {
	case <-r.out.found:
		return nil
	default:
		return fmt.Errorf("want %q in its output, got: %s", t.Output, r.out.tail())
	}
}

// probe asks until the URL is answered or the context ends.
func probe(ctx context.Context, dial dialer, url string, answered chan<- struct{}) {
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	for ctx.Err() == nil {
		if ask(ctx, client, url) == nil {
			close(answered)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(probeInterval):
		}
	}
}

func ask(ctx context.Context, c *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	if err := res.Body.Close(); err != nil {
		return err
	}
	if res.StatusCode >= http.StatusInternalServerError {
		return errors.New(res.Status)
	}
	return nil
}
