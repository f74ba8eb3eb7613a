package worker

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// driver makes the target of a state a device of this host.
type driver interface {
	// check says what the host lacks for this driver, or nil.
	check() error
	// launch starts the process of the agent, which waits.
	launch(s *state, executable string) (*launched, error)
	// up makes the device and returns its path; the attachment at the server
	// exists, and the agent has been launched.
	up(ctx context.Context, s *state, l *launched) (device string, err error)
	// device returns the path of the device as the kernel knows it, or "".
	device(s *state) (string, error)
	// healthy says why the device does not work, or nil. It repairs what can be
	// repaired without touching I/O.
	healthy(ctx context.Context, s *state, executable string) error
	// down removes the device and the agent, whatever is there of them.
	down(ctx context.Context, s *state, force bool) error
}

// fuseDriver is a FUSE file system with a loop device on its file.
type fuseDriver struct {
	store store
	// step is told of parts of up; nil: nobody asks.
	step func(name string, took time.Duration)
}

func (d fuseDriver) agent(s *state) agent { return agent{d.store, s.Target} }

func (d fuseDriver) check() error {
	for _, c := range []struct{ path, missing string }{
		{"/dev/fuse", "load the kernel module fuse (modprobe fuse), or give the container the device"},
		{loopControl, "load the kernel module loop (modprobe loop), or give the container the device"},
	} {
		f, err := os.OpenFile(c.path, os.O_RDWR, 0)
		if errGone(err) || err == unix.ENXIO {
			return block.Errorf(block.Unsupported, "fuse driver: %s is missing: %s", c.path, c.missing)
		}
		if err != nil {
			return block.Errorf(block.KindOfFile(err), "fuse driver: %w: this needs root", err)
		}
		_ = f.Close()
	}
	return nil
}

func (d fuseDriver) launch(s *state, executable string) (*launched, error) {
	return d.agent(s).launch(executable, AgentFuseDaemon, s.Nonce)
}

func (d fuseDriver) up(ctx context.Context, s *state, l *launched) (string, error) {
	if err := os.MkdirAll(d.store.fuseDir(s.Target), 0o700); err != nil {
		return "", block.Errorf(block.KindOfFile(err), "make the FUSE directory: %w", err)
	}
	report, err := l.begin(ctx)
	if err != nil {
		return "", err
	}
	begun := time.Now()
	device, err := setUpLoop(d.store.fuseFile(s.Target), s.ReadOnly)
	if d.step != nil {
		tellSteps(report, d.step)
		d.step("  loop device", time.Since(begun))
	}
	return device, err
}

func (d fuseDriver) device(s *state) (string, error) { return loopOf(d.store.fuseFile(s.Target)) }

func (d fuseDriver) healthy(_ context.Context, s *state, _ string) error {
	if d.agent(s).pid() == 0 {
		return block.Errorf(block.IO, "%s: its FUSE daemon is dead: %s", s.Target, d.agent(s).lastWords())
	}
	device, err := d.device(s)
	if err == nil && device == "" {
		err = block.Errorf(block.IO, "%s: its loop device is gone", s.Target)
	}
	return err
}

func (d fuseDriver) down(ctx context.Context, s *state, force bool) error {
	limit := settleTimeout
	if force { // the kernel clears it by itself once nobody has it open
		limit = forcedSettleTimeout
	}
	err := clearLoop(ctx, d.store.fuseFile(s.Target), limit)
	if err != nil && !force {
		return err
	}
	dir := d.store.fuseDir(s.Target)
	mounted, merr := isMounted(dir)
	if merr != nil {
		return merr
	}
	if mounted {
		if err := unmount(dir, true); err != nil {
			return err
		}
	}
	if err := d.agent(s).stop(settleTimeout / 2); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errGone(err) {
		return block.Errorf(block.KindOfFile(err), "remove the FUSE directory: %w", err)
	}
	return nil
}
