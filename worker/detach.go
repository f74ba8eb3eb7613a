package worker

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/slackerd/slacker/block"
)

// Detach undoes an attach. what is a target, its device, or a directory it is
// mounted at. With force it unmounts lazily and goes on past everything that
// does not work, data that is not yet at the server included: then nothing is
// left here, also when the server refuses to end the attachment, which is the
// error.
func (w *Worker) Detach(ctx context.Context, what string, force bool) (target string, err error) {
	if os.Geteuid() != 0 {
		return "", block.Errorf(block.Permission, "detach %s: run as root (user id is %d)", what, os.Geteuid())
	}
	target, err = w.resolve(what)
	if err != nil {
		return "", err
	}
	if err := w.store.init(); err != nil { // it does not survive a boot
		return "", err
	}
	unlock, err := w.lockToDetach(ctx, target, force)
	if err != nil {
		return "", err
	}
	defer unlock()
	s, err := w.store.load(target)
	if err != nil {
		return "", err
	}
	if s == nil {
		n, err := w.dropOrphans(ctx, target)
		if err == nil && n == 0 {
			err = block.Errorf(block.NotFound, "%s is not attached here", what)
		}
		return target, err
	}
	return target, w.tearDown(ctx, s, force)
}

// lockToDetach takes the lock of a target. With force it ends the waiting of one
// that holds it, which is a detach that waits for a server that is away: it breaks
// the device off below that.
func (w *Worker) lockToDetach(ctx context.Context, target string, force bool) (unlock func(), err error) {
	answered := func() (bool, error) { // by the lock, with yes or with another error than Busy
		unlock, err = w.store.lock(target)
		return !force || !block.Is(err, block.Busy), nil
	}
	werr := awaitFor(ctx, forcedSyncTimeout, answered)
	switch {
	case werr == nil:
		return unlock, err
	case ctx.Err() != nil:
		return nil, werr
	}
	s, lerr := w.store.load(target)
	if lerr != nil || s == nil || s.Phase != phaseAttached && s.Phase != phaseDetaching {
		return nil, joinLine(err, lerr) // it is being attached
	}
	if err := w.breakOff(ctx, s); err != nil {
		return nil, err
	}
	_ = awaitFor(ctx, settleTimeout, answered) // err is what the lock said last
	return unlock, err
}

// resolve finds the target that is meant by a target, device or directory.
func (w *Worker) resolve(what string) (string, error) {
	states, _, err := w.store.all()
	if err != nil {
		return "", err
	}
	for _, s := range states {
		if s.Target == what {
			return s.Target, nil
		}
	}
	id, isDevice := deviceIDOf(what)
	dir, err := filepath.Abs(what)
	if err != nil {
		return "", block.Errorf(block.Invalid, "detach %s: %w", what, err)
	}
	if real, err := resolveDir(dir); err == nil {
		dir = real
	}
	for _, s := range states {
		if s.MountDir != "" && s.MountDir == dir {
			return s.Target, nil
		}
		device, err := w.driver(s.Driver).device(s)
		if err != nil || device == "" {
			continue
		}
		if got, ok := deviceIDOf(device); isDevice && ok && got == id {
			return s.Target, nil
		}
		at, err := mountsOf(device)
		if err != nil {
			return "", err
		}
		for _, m := range at {
			if m == dir {
				return s.Target, nil
			}
		}
	}
	if err := checkTarget(what); err != nil || isDevice {
		return "", block.Errorf(block.NotFound, "%s: no volume that is attached here, nor its device, nor its directory", what)
	}
	return what, nil
}

// tearDown removes everything of an attachment, in an order in which each step
// may be repeated, the state file last. The caller holds the target's lock.
// Without force it stops at what is in use.
func (w *Worker) tearDown(ctx context.Context, s *state, force bool) error {
	d := w.driver(s.Driver)
	// A health check may start the agent anew, which is wanted here: what is
	// cached must still reach the server.
	alive := !w.earlierBoot(s) && d.healthy(ctx, s, w.Executable) == nil
	device, err := d.device(s)
	if err != nil {
		return err
	}
	settled := make(chan error, 1)
	needsSync := alive && device != "" && !s.ReadOnly && s.Phase == phaseAttached
	go func() { settled <- w.settle(s, device, needsSync, force) }()
	if force {
		err = w.settleOrBreak(ctx, s, device, settled)
	} else {
		err = <-settled
	}
	if err != nil {
		return err
	}
	if err := w.beginsToDetach(s); err != nil {
		return err
	}
	if err := w.step("remove the device", func() error { return d.down(ctx, s, force) }); err != nil {
		return err
	}
	refused := w.step("detach at the server", func() error { return w.releaseAtServer(ctx, s, force) })
	if refused != nil && !force {
		return refused
	}
	if s.MadeMountDir {
		_ = os.Remove(s.MountDir) // somebody may have put something there: then it stays
	}
	return joinLine(refused, w.step("remove state", func() error { return w.store.remove(s.Target) }))
}

// settle unmounts the device and syncs it. It waits for the server, if need be
// as long as the device does.
func (w *Worker) settle(s *state, device string, needsSync, force bool) error {
	if err := w.step("unmount", func() error { return w.unmountAll(s, device, force) }); err != nil || !needsSync {
		return err
	}
	err := w.step("sync", func() error { return syncDevice(device) })
	if force {
		return nil
	}
	return err
}

// settleOrBreak gives settle a while. Then it breaks the device off, so that
// what settle waits for fails.
func (w *Worker) settleOrBreak(ctx context.Context, s *state, device string, settled <-chan error) error {
	select {
	case err := <-settled:
		return err
	case <-time.After(forcedSyncTimeout):
	}
	if err := w.breakOff(ctx, s); err != nil {
		return err
	}
	select {
	case err := <-settled:
		return err
	case <-time.After(settleTimeout):
	}
	dirs, err := mountsOf(device)
	for _, dir := range dirs {
		err = joinLine(err, unmount(dir, true))
	}
	return err
}

// breakOff makes what waits for the device fail.
func (w *Worker) breakOff(ctx context.Context, s *state) error {
	if err := w.beginsToDetach(s); err != nil {
		return err
	}
	return w.step("break off the device", func() error { return w.driver(s.Driver).down(ctx, s, true) })
}

// beginsToDetach writes down that the attachment is being undone, after which
// no standby takes an agent's place.
func (w *Worker) beginsToDetach(s *state) error {
	if s.Phase != phaseAttached && s.Phase != phaseAttaching {
		return nil
	}
	s.Phase = phaseDetaching
	return w.store.save(s)
}

// unmountAll unmounts every place the device is mounted at.
func (w *Worker) unmountAll(s *state, device string, force bool) error {
	dirs, err := mountsOf(device)
	if err != nil {
		return err
	}
	if !force {
		for _, dir := range dirs {
			if dir != s.MountDir {
				return block.Errorf(block.Busy, "%s is also mounted at %s: unmount that first, or detach --force", s.Target, dir)
			}
		}
	}
	for _, dir := range dirs {
		if err := unmount(dir, false); err != nil {
			if !force {
				return err
			}
			if err := unmount(dir, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// releaseAtServer ends the attachment at the server. With force a server that
// is away or hangs is no obstacle: a later attach or list --clean ends it there.
func (w *Worker) releaseAtServer(ctx context.Context, s *state, force bool) error {
	if force {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, forcedSyncTimeout)
		defer cancel()
	}
	var err error
	if s.AttachmentID != "" {
		err = w.detachAtServer(ctx, s.AttachmentID)
	} else {
		_, err = w.dropOrphans(ctx, s.Target)
	}
	if force && block.Is(err, block.Unavailable) {
		return nil
	}
	return err
}
