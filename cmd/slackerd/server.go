package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/slackerd/slacker/activity"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/apiserver"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/config"
	"github.com/slackerd/slacker/gc"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/scrub"
	"github.com/slackerd/slacker/volume"
	"go.uber.org/zap"
)

// server is a running slackerd.
type server struct {
	config    *config.Config
	log       *zap.Logger
	store     *volume.Store
	collector atomic.Pointer[gc.Collector]
	activity  *activity.Table
	scrubber  *scrub.Scrubber
	sockets   *sockets
	nbd       *nbdserver.Server
	http      *http.Server
	health    health
	security  *security
	upgrader  *upgrader

	running sync.WaitGroup
	failed  chan error // what ended the server before its time; holds one
}

// serve runs the server until ctx ends or something essential fails, then
// stops it in order (D2).
func serve(ctx context.Context, c *config.Config, log *zap.Logger) error {
	s := &server{config: c, log: log, failed: make(chan error, 1)}
	began := time.Now()
	var err error
	if s.upgrader, err = newUpgrader(log.Named("upgrade")); err != nil {
		return err
	}
	left, err := inherit()
	if err != nil {
		return err
	}
	// The background work outlives ctx until the connections are closed.
	background, stopBackground := context.WithCancel(context.Background())
	defer stopBackground()
	if err := s.open(background, began, left); err != nil {
		return errors.Join(err, s.closeStore())
	}
	notify := notifier{log}
	s.start(ctx, background, notify)
	s.adopt(left)
	nbd, apis := addresses(s.sockets.nbd), addresses(s.sockets.api)
	log.Info("serving", zap.String("version", versionText()), zap.String("data_dir", c.Server.DataDir),
		zap.Strings("nbd", nbd), zap.Strings("api", apis), zap.Duration("took", time.Since(began)))
	notify.send(daemon.SdNotifyReady + "\nSTATUS=serving NBD on " + strings.Join(nbd, " ") + ", API on " + strings.Join(apis, " "))

	s.background(func() { s.upgrader.listen(background) })
	select {
	case <-ctx.Done():
	case err = <-s.failed:
	case <-s.upgrader.asked:
		notify.reloading()
		return s.upgrade(stopBackground)
	}
	notify.send(daemon.SdNotifyStopping)
	err = errors.Join(err, s.stop(stopBackground))
	if err == nil {
		log.Info("stopped")
	}
	return err
}

// open opens the store and the sockets, and makes what serves them.
func (s *server) open(background context.Context, began time.Time, left *legacy) (err error) {
	c := s.config
	var ends uint64
	step := func(string) {}
	if left != nil {
		ends, step = left.LogEnds, left.Steps.mark
		left.Steps.markAt("program started", programStarted)
		step("configuration read")
	}
	s.store, err = volume.Open(volume.Options{LogEndsBefore: ends, Step: step, Dir: c.Server.DataDir, Logger: s.log.Named("store"), SegmentBytes: c.Store.SegmentSize,
		MapCacheBytes: c.Store.MapCacheSize, PageCacheBytes: c.Store.PageCacheSize, CommitInterval: c.Store.CommitInterval,
		SpareSegments: int(c.Store.SpareSegments), ReserveBytes: c.Store.ReserveSize, MakeRoom: s.makeRoom, OnGarbage: s.wakeCollector, OnSealed: s.segmentSealed})
	if err != nil {
		return err
	}
	step("store opened")
	s.health = health{s.store}
	s.activity = activity.New(activity.Options{Identify: identify, Slow: c.NBD.SlowRequest, Logger: s.log.Named("slow")})
	s.collector.Store(gc.New(s.store, gc.Options{Logger: s.log.Named("gc"), CleanBelow: float64(c.GC.CleanBelow) / 100, Interval: c.GC.Interval,
		Foreground: s.activity.Arrived}))
	if s.scrubber, err = scrub.New(s.store, scrub.Options{Logger: s.log.Named("scrub"), BytesPerSecond: c.Scrub.Rate, Every: c.Scrub.Every}); err != nil {
		return err
	}
	if s.sockets, err = openSockets(&c.Server, left); err != nil {
		return err
	}
	if err := s.makeServers(background, began); err != nil {
		return errors.Join(err, s.sockets.close())
	}
	return nil
}

func (s *server) makeServers(background context.Context, began time.Time) (err error) {
	table := s.activity
	registry := newRegistry(s.store, table, s.scrubber)
	if s.security, err = newSecurity(s.config, s.log.Named("tls")); err != nil {
		return err
	}
	s.nbd, err = nbdserver.New(backend{s.store, s.config.Access.Policy}, nbdserver.Options{Logger: s.log.Named("nbd"), Limits: nbdLimits(&s.config.NBD),
		Metrics: table, TLS: s.security.tlsConfig(), TLSMode: nbdTLSModes[s.config.TLS.NBD]})
	if err != nil {
		return err
	}
	advertise := addresses(s.sockets.nbd)
	if len(s.config.Server.NBDAdvertise) > 0 {
		advertise = nil
		for _, a := range s.config.Server.NBDAdvertise {
			advertise = append(advertise, a.String())
		}
	}
	u := upkeep{store: s.store, collector: s.collector.Load(), scrubber: s.scrubber, stopping: background}
	admin, err := apiserver.NewServer(s.store, apiserver.Options{Version: versionText(), DataDir: s.config.Server.DataDir, NBDAddresses: advertise,
		Started: began, Checker: u, Collector: u, Scrubber: u, Upgrader: s.upgrader,
		Activity: func(byConnection bool) *slackerv1.Activity { return activityOf(s.activity, byConnection) },
		Access:   s.config.Access.Policy, Log: s.log.Named("api")})
	if err != nil {
		return err
	}
	path, handler := apiserver.NewHandler(admin)
	s.http = newHTTP(path, handler, s.config.Access.Policy, s.health, registry, s.config.Server.Pprof, s.log.Named("http"))
	return nil
}

// segmentSealed is called by the log, also before there is a collector.
func (s *server) segmentSealed() {
	if c := s.collector.Load(); c != nil {
		c.Sealed()
	}
}

// makeRoom is called by the store, also before there is a collector.
func (s *server) makeRoom(ctx context.Context) bool {
	c := s.collector.Load()
	return c != nil && c.MakeRoom(ctx)
}

// wakeCollector is called by the store, also before there is a collector.
func (s *server) wakeCollector() {
	if c := s.collector.Load(); c != nil {
		c.Wake()
	}
}

func nbdLimits(c *config.NBD) nbdserver.Limits {
	l := nbdserver.DefaultLimits()
	l.Connections = int(c.MaxConnections)
	l.Negotiations = int(c.MaxNegotiations)
	l.RemoteConnections = int(c.MaxRemoteConnections)
	l.Handshake = c.HandshakeTimeout
	l.Stall = c.StallTimeout
	l.RequestBytes = int(c.MaxRequest)
	l.InFlightRequests = int(c.MaxInFlightRequests)
	l.InFlightBytes = int(c.MaxInFlightBytes)
	l.TotalBytes = int(c.MaxTotalBytes)
	return l
}

// start sets everything to work.
func (s *server) start(ctx, background context.Context, notify notifier) {
	s.background(func() { s.collector.Load().Run(background) })
	s.background(func() { s.scrubber.Run(background) })
	s.background(func() { s.security.reloadOnSignal(background) })
	s.background(func() { notify.watchdog(background, s.health.live) })
	for _, l := range s.sockets.nbd {
		s.background(func() { s.fail(s.nbd.Serve(ctx, l)) })
	}
	for _, l := range s.sockets.api {
		s.background(func() { s.fail(s.serveHTTP(s.security.secureAPI(l))) })
	}
}

func (s *server) serveHTTP(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return block.Errorf(block.IO, "api on %s: %w", l.Addr(), err)
	}
	return nil
}

func (s *server) background(f func()) {
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		f()
	}()
}

func (s *server) fail(err error) {
	if err == nil {
		return
	}
	select {
	case s.failed <- err:
	default:
	}
}

// stop ends the server: connections, background work, store, in this order.
func (s *server) stop(stopBackground func()) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.config.Server.ShutdownTimeout)
	defer cancel()
	// Long requests of the API end with the background work.
	stopBackground()
	var errs []error
	if err := s.nbd.Shutdown(ctx); err != nil {
		s.log.Warn("NBD connections were cut: their commands took too long to finish", zap.Duration("waited", s.config.Server.ShutdownTimeout), zap.Error(err))
	}
	if err := s.http.Shutdown(ctx); err != nil {
		s.log.Warn("API requests were cut: they took too long to finish", zap.Error(err))
		errs = append(errs, s.http.Close())
	}
	s.running.Wait()
	errs = append(errs, s.closeStore())
	if err := errors.Join(errs...); err != nil {
		return block.Wrap(block.IO, err, "stop")
	}
	return nil
}

func (s *server) closeStore() error {
	if s.store == nil {
		return nil
	}
	if err := s.store.Close(); err != nil {
		return fmt.Errorf("close the store: %w", err)
	}
	return nil
}
