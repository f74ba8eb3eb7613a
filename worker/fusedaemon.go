package worker

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/fusefile"
	"github.com/slackerd/slacker/lazy"
	"github.com/slackerd/slacker/nbdclient"
)

// RunFuseDaemon is the agent of the fuse driver. It returns when its file
// system has been unmounted, on SIGTERM, or when its standby is to take over.
func RunFuseDaemon(args AgentArgs, logger *zap.Logger) error {
	r, err := becomeAgent(args)
	if err == nil {
		err = r.mountAndServe(logger)
	}
	if r != nil {
		r.report("", err)
	}
	return err
}

const (
	watchInterval = time.Second // how often an agent looks whether it is wanted
	// refusalPatience is how long a server may refuse an attachment that it had:
	// it may be starting.
	refusalPatience = 5 * time.Second
	// othersAfter is when the connections after the first are made: an attach
	// should not compete with them.
	othersAfter = 100 * time.Millisecond
)

// fuseDaemon serves the file system of one target.
type fuseDaemon struct {
	*running
	device  *fusefile.Device
	session *nbdclient.Session
	keeper  *keeper // nil on kernels where no standby can take over
	log     *zap.Logger
	steps   string                              // what was done, and how long it took
	volume  *lazy.Volume                        // the cache before the session, or nil
	written []byte                              // the figures, as they were written down
	server  slackerv1connect.AdminServiceClient // of the volume
	told    bool                                // the server knows what the start has read
	signals chan os.Signal                      // what the process was told
}

func (r *running) sessionOptions(logger *zap.Logger) nbdclient.SessionOptions {
	opts := nbdclient.DefaultSessionOptions()
	opts.Connections, opts.Attachment = r.state.Connections, true
	opts.DeadTimeout, opts.Log = r.state.deadTimeout(), logger
	opts.Conn.TLS = r.state.secure()
	opts.Conn.StallTimeout = 2 * r.state.requestTimeout()
	// An outage swallows what a connection begins with: the sooner it is tried again
	// the sooner the requests of the slot go on.
	opts.Conn.DialTimeout = min(opts.Conn.DialTimeout, r.state.requestTimeout())
	return opts
}

func (r *running) mountAndServe(logger *zap.Logger) error {
	d := &fuseDaemon{running: r, log: logger}
	if err := d.open(); err != nil {
		return err
	}
	server, err := d.fileSystem(true)
	if err != nil {
		return joinLine(err, d.close(), unmount(r.store.fuseDir(r.target), true))
	}
	d.standBy(standbyDelay)
	d.signals = listen()
	return d.run(server)
}

// open connects to the server and mounts the file system meanwhile.
func (d *fuseDaemon) open() error {
	ctx, cancel := context.WithTimeout(context.Background(), agentStartTimeout)
	defer cancel()
	dir := d.store.fuseDir(d.target)
	mounted := make(chan error, 1)
	var mounting time.Duration
	begun := time.Now()
	go func() {
		var err error
		d.device, err = fusefile.Mount(dir)
		mounting = time.Since(begun)
		mounted <- err
	}()
	opts := d.sessionOptions(d.log)
	opts.OthersAfter = othersAfter
	var err error
	d.session, err = nbdclient.OpenSession(ctx, d.state.NBDAddresses, d.state.ExportName, opts)
	connecting := time.Since(begun)
	merr := <-mounted
	if err == nil && !d.state.ReadOnly && d.session.Info().Flags.Has(nbdclient.FlagReadOnly) {
		err = block.Errorf(block.ReadOnly, "attach %s: the server offers it read-only", d.target)
	}
	if err == nil && merr == nil {
		d.steps = stepsOf("process ready", begun.Sub(d.born), "NBD handshake", connecting, "FUSE mount", mounting)
		return nil
	}
	if d.session != nil {
		err = joinLine(err, d.session.Close())
	}
	if merr == nil {
		err = joinLine(err, unmount(dir, true))
	}
	return joinLine(err, merr)
}

// takeOverFuse goes on where an agent that died at died has left off.
func (r *running) takeOverFuse(b briefing, file *os.File, died time.Time, logger *zap.Logger) error {
	if b.Fuse == nil {
		return block.Errorf(block.Invalid, "take over %s: the agent did not say what it agreed on with the kernel", r.target)
	}
	device, err := fusefile.Resume(file, *b.Fuse)
	if err != nil {
		return err
	}
	d := &fuseDaemon{running: r, device: device, log: logger, signals: listen()}
	d.standBy(0)
	err = d.reconnect(died)
	if err != nil {
		d.keeper.dismiss()
		return err
	}
	server, err := d.fileSystem(false)
	if err == nil {
		err = device.Resend()
	}
	if err != nil {
		d.keeper.dismiss()
		return joinLine(err, d.close())
	}
	logger.Info("took over", zap.String("target", r.target), zap.Duration("after", time.Since(died)))
	return d.run(server)
}

// fileSystem makes the server of the file; began: no process of the attachment
// was there before this one.
func (d *fuseDaemon) fileSystem(began bool) (*fusefile.Server, error) {
	export, batch := d.export(began)
	return fusefile.NewServer(d.device, export, batch, filepath.Base(d.store.fuseFile(d.target)), d.state.ReadOnly, d.log)
}

func (d *fuseDaemon) standBy(delay time.Duration) {
	if !d.device.Settings.CanResend {
		d.log.Warn("no standby: the kernel cannot hand out requests anew; if this process is killed, its device dies")
		return
	}
	b := briefing{Version: standbyVersion, Role: AgentFuseDaemon, Fuse: &d.device.Settings}
	d.keeper = d.keepStandby(b, d.device.File, delay, d.log)
}

// reconnect opens the session anew. Every slot has to be connected before any
// request may go out: with that the server has fenced all that the dead agent
// had sent, and nothing of it can land after what is sent from now on.
func (d *fuseDaemon) reconnect(died time.Time) error {
	ctx, cancel := d.whileCurrent()
	defer cancel()
	limit := refusalPatience
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		session, err := nbdclient.OpenSession(ctx, d.state.NBDAddresses, d.state.ExportName, d.sessionOptions(d.log))
		if err == nil {
			if err = session.AwaitSlots(ctx); err == nil {
				d.session = session
				return nil
			}
			err = joinLine(err, session.Close())
		}
		if limit = refusalPatience; block.Is(err, block.Unavailable) {
			limit = d.state.deadTimeout()
		}
		switch {
		case ctx.Err() != nil:
			return joinLine(block.Errorf(block.Fenced, "daemon of %s: its attach is gone", d.target), err)
		case time.Since(died) > limit:
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// whileCurrent returns a context that ends when the daemon is to end. A signal
// that is to change its process only is left for run.
func (d *fuseDaemon) whileCurrent() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		tick := time.NewTicker(watchInterval)
		defer tick.Stop()
		var later os.Signal
		for {
			ended := false
			select {
			case <-ctx.Done():
				if later != nil {
					select {
					case d.signals <- later:
					default: // another has come
					}
				}
				return
			case sig := <-d.signals:
				if ended = !d.wanted(); !ended {
					later = sig
				}
			case <-tick.C:
				ended = !d.current()
			}
			if ended {
				cancel()
				return
			}
		}
	}()
	return ctx, cancel
}

// listen returns the channel of what this process is told.
func listen() chan os.Signal {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	return signals
}

// run serves until the file system has been unmounted or the daemon is to end.
// Without a standby SIGTERM ends it; with one a volume that is attached only
// changes its process.
func (d *fuseDaemon) run(server *fusefile.Server) error {
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	d.report("mounted"+d.steps, nil)
	watch := time.NewTicker(watchInterval)
	defer watch.Stop()
	for {
		select {
		case err := <-served:
			d.keeper.dismiss()
			return joinLine(err, d.close())
		case sig := <-d.signals:
			if d.wanted() && (d.keeper != nil || sig == unix.SIGHUP) {
				err := d.keeper.handOver()
				if err == nil {
					// The session stays open until this process has ended: were it closed
					// before, requests in flight would be answered with its end.
					return nil
				}
				d.log.Warn("stay: the standby cannot take over", zap.Error(err))
				continue
			}
			return d.end(nil)
		case <-watch.C:
			if d.volume != nil && d.volume.Started() && !d.told {
				d.tellTrace()
			}
			if !d.current() {
				return d.end(block.Errorf(block.Fenced, "daemon of %s: its attach is gone", d.target))
			}
			d.writeFigures(server)
		}
	}
}

// end unmounts: lazily, as a mount in use must not keep a daemon that is to go.
func (d *fuseDaemon) end(why error) error {
	d.keeper.dismiss()
	return joinLine(why, unmount(d.store.fuseDir(d.target), true), d.close())
}
