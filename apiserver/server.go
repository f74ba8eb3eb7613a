package apiserver

import (
	"errors"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/access"
	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
)

// Options are what the server knows besides the store.
type Options struct {
	Version      string
	DataDir      string
	NBDAddresses []string // tcp://HOST:PORT or unix:///PATH, as workers reach them
	Started      time.Time
	Checker      Checker
	Collector    Collector
	Scrubber     Scrubber
	// Activity says what NBD connections did; nil: nothing. An answer
	// without a time gets that of the clock.
	Activity func(byConnection bool) *slackerv1.Activity
	// Upgrader replaces the program; nil: nothing does.
	Upgrader Upgrader
	Log      *zap.Logger
	// Access says who may do what; nil: everybody everything.
	Access *access.Policy
	// Now is the clock that limits the rate of progress events; nil is time.Now.
	Now func() time.Time
}

// Server implements the service over a store.
type Server struct {
	store Store
	opts  Options
}

var _ slackerv1connect.AdminServiceHandler = (*Server)(nil)

// NewServer returns a server of store. All faults of the options are reported
// at once.
func NewServer(store Store, opts Options) (*Server, error) {
	var faults []error
	if store == nil {
		faults = append(faults, errors.New("api server: no store given"))
	}
	if opts.Checker == nil {
		faults = append(faults, errors.New("api server: no checker given"))
	}
	if opts.Collector == nil {
		faults = append(faults, errors.New("api server: no collector given"))
	}
	if opts.Scrubber == nil {
		faults = append(faults, errors.New("api server: no scrubber given"))
	}
	if opts.Log == nil {
		faults = append(faults, errors.New("api server: no logger given"))
	}
	if opts.Started.IsZero() {
		faults = append(faults, errors.New("api server: no start time given"))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Server{store: store, opts: opts}, nil
}

// respond makes the answer of a call: msg, or err with its code.
func respond[T any](msg *T, err error) (*connect.Response[T], error) {
	if err != nil {
		return nil, api.ToConnect(err)
	}
	return connect.NewResponse(msg), nil
}

// refuse is respond for what failed before there was an answer.
func refuse[T any](err error) (*connect.Response[T], error) { return nil, api.ToConnect(err) }
