package worker

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// Worker attaches, detaches and lists.
type Worker struct {
	Config
	store store
	boot  string // of the running kernel
}

// New returns a worker; c comes from DefaultConfig.
func New(c Config) (*Worker, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.StateDir != DefaultStateDir {
		// Another state directory is another worker: it must not take what the
		// first one has at the server for left over.
		c.Worker += ":" + c.StateDir
	}
	return &Worker{Config: c, store: store{c.StateDir}, boot: bootID()}, nil
}

// Attached is an attached target.
type Attached struct {
	Target       string `json:"target"`
	Device       string `json:"device"`
	Driver       string `json:"driver"`
	Mount        string `json:"mount,omitempty"`
	ReadOnly     bool   `json:"read_only"`
	SizeBytes    uint64 `json:"size_bytes"`
	AttachmentID string `json:"attachment_id"`
	// Already: it was attached before, and nothing had to be done.
	Already bool `json:"already"`
	// DriverReason says why auto chose the driver.
	DriverReason string `json:"driver_reason,omitempty"`
	// Files is what a start of a clone of the same snapshot has opened, as the server
	// told when this one was attached just now: encoded (package boottrace), and not
	// looked at. None without Config.Prefetch.
	Files []byte `json:"-"`
	// Base is what Files is about: the snapshot below the newest layer at that time.
	Base string `json:"-"`

	baseID string
}

// step runs one step of an operation, timed.
func (w *Worker) step(name string, f func() error) error {
	if err := w.fault(name); err != nil {
		return err
	}
	begun := time.Now()
	err := f()
	w.Verbose(name, time.Since(begun))
	return err
}

// driver returns the driver of that name.
func (w *Worker) driver(name string) driver {
	if name == driverNBD {
		return nbdDriver{store: w.store, step: w.Verbose}
	}
	return fuseDriver{w.store, w.Verbose}
}

// chooseDriver resolves "auto" and checks that the host has what it takes.
func (w *Worker) chooseDriver(name string) (chosen, reason string, err error) {
	if name != "auto" {
		return name, "asked for", w.driver(name).check()
	}
	nbdErr := w.driver(driverNBD).check()
	if nbdErr == nil {
		return driverNBD, "the kernel has nbd", nil
	}
	if err := w.driver(driverFuse).check(); err != nil {
		return "", "", block.Errorf(block.KindOf(err), "no driver works here: %w; %w", nbdErr, err)
	}
	return driverFuse, nbdErr.Error(), nil
}

// Attach makes target a device of this host, with a file system mounted if o
// says so. Attaching what is attached in the same way already is no error.
// After an error nothing is left behind that was not there before.
func (w *Worker) Attach(ctx context.Context, target string, o AttachOptions) (*Attached, error) {
	if err := joinLine(checkTarget(target), o.check()); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, block.Errorf(block.Permission, "attach %s: block devices are made by root: run as root (user id is %d)", target, os.Geteuid())
	}
	if o.Mkfs {
		if _, err := checkMkfs(); err != nil {
			return nil, err
		}
	}
	if err := w.store.init(); err != nil {
		return nil, err
	}
	unlock, err := w.store.lock(target)
	if err != nil {
		return nil, err
	}
	defer unlock()
	old, err := w.store.load(target)
	if err != nil {
		return nil, err
	}
	if old != nil {
		attached, err := w.again(ctx, old, o)
		if err != nil || attached != nil {
			return attached, err
		}
		if err := w.step("clear what a former attach left", func() error { return w.tearDown(ctx, old, true) }); err != nil {
			return nil, err
		}
	}
	return w.fresh(ctx, target, o, old)
}

// again answers for a target that has a state: attached in the same way, or in
// another, or (nil, nil) left over and to be cleared.
func (w *Worker) again(ctx context.Context, s *state, o AttachOptions) (*Attached, error) {
	d := w.driver(s.Driver)
	if s.Phase != phaseAttached || w.earlierBoot(s) || d.healthy(ctx, s, w.Executable) != nil {
		return nil, nil
	}
	err := w.step("confirm the attachment", func() error { return w.confirmAtServer(ctx, s) })
	if block.Is(err, block.NotFound) || block.Is(err, block.Fenced) || block.Is(err, block.Busy) {
		return nil, nil // taken over by another worker: ours is dead
	}
	if err != nil {
		return nil, err
	}
	if (o.Driver != "auto" && o.Driver != s.Driver) || o.ReadOnly != s.ReadOnly || (o.Connections != 0 && o.Connections != s.Connections) {
		return nil, block.Errorf(block.Exists, "%s is attached already with driver %s, read-only %v, %d connections: detach it first", s.Target, s.Driver, s.ReadOnly, s.Connections)
	}
	if s.MountDir != "" && o.MountDir != "" && s.MountDir != filepath.Clean(o.MountDir) {
		return nil, block.Errorf(block.Exists, "%s is attached already and mounted at %s, not at %s: detach it first", s.Target, s.MountDir, o.MountDir)
	}
	mounted, err := isMounted(s.MountDir)
	if err != nil {
		return nil, err
	}
	if !mounted && (o.MountDir != "" || o.Mkfs) {
		if err := w.fileSystem(ctx, s, o, false); err != nil {
			return nil, err
		}
	}
	attached, err := w.describe(s)
	if err == nil {
		attached.Already = true
	}
	return attached, err
}

// fresh attaches a target that has no state any more; old is what it had. What
// has to be a clone is made first, and after an error it is gone. The agent's
// process starts meanwhile.
func (w *Worker) fresh(ctx context.Context, target string, o AttachOptions, old *state) (*Attached, error) {
	name, reason, err := w.chooseDriver(o.Driver)
	if err != nil {
		return nil, err
	}
	s := &state{Version: stateVersion, Target: target, Nonce: rand.Text(), Phase: phaseAttaching, Driver: name, Server: w.Server,
		Worker: w.Worker, Boot: w.boot, ReadOnly: o.ReadOnly, Connections: o.Connections,
		TLSCA: w.TLS.CA, TLSCert: w.TLS.Cert, TLSKey: w.TLS.Key, Created: time.Now().UTC(),
		RequestSeconds: int(w.RequestTimeout / time.Second), DeadSeconds: int(w.DeadTimeout / time.Second)}
	w.useCache(s)
	if s.Connections == 0 {
		s.Connections = map[string]int{driverNBD: DefaultNBDConnections, driverFuse: DefaultFuseConnections}[name]
	}
	unfinished := uint64(0)
	if old != nil && old.Phase == phaseMkfs {
		s.Phase, s.Generation, unfinished = phaseMkfs, old.Generation, old.Generation
	}
	var l *launched
	if err := w.step("start a process", func() (err error) { l, err = w.driver(name).launch(s, w.Executable); return err }); err != nil {
		return nil, err
	}
	defer l.abandon()
	clone := o.Clone != "" && old == nil
	if clone {
		if err := w.step("clone", func() error { return w.cloneAtServer(ctx, o.Clone, target) }); err != nil {
			return nil, err
		}
	}
	if err := w.bringUp(ctx, s, o, l, unfinished); err != nil {
		// The rollback must also run when the caller has been interrupted.
		if cerr := w.tearDown(context.WithoutCancel(ctx), s, true); cerr != nil {
			return nil, joinLine(err, block.Wrap(block.Internal, cerr, "and undoing it left something (see list --clean)"))
		}
		if clone {
			err = joinLine(err, w.deleteAtServer(context.WithoutCancel(ctx), target))
		}
		return nil, err
	}
	attached, err := w.describe(s)
	if err == nil {
		attached.DriverReason = reason
	}
	return attached, err
}

// bringUp goes through the steps of an attach. unfinished is the generation of
// the attachment under which a mkfs was cut off, or 0: it is done again only if
// nobody has had the volume since.
func (w *Worker) bringUp(ctx context.Context, s *state, o AttachOptions, l *launched, unfinished uint64) error {
	if err := w.step("save state", func() error { return w.store.save(s) }); err != nil {
		return err
	}
	if err := w.step("attach at the server", func() error { return w.attachAtServer(ctx, s, o.Takeover) }); err != nil {
		return err
	}
	if err := w.step("save attachment", func() error { return w.store.save(s) }); err != nil {
		return err
	}
	if err := w.step("make the device ("+s.Driver+")", func() (err error) { s.device, err = w.driver(s.Driver).up(ctx, s, l); return err }); err != nil {
		return err
	}
	redoMkfs := unfinished > 0 && s.Generation == unfinished+1
	if err := w.fileSystem(ctx, s, o, redoMkfs); err != nil {
		return err
	}
	return w.step("save result", func() error {
		s.Phase = phaseAttached
		return w.store.save(s)
	})
}

// fileSystem makes and mounts the file system, as far as o asks for it.
func (w *Worker) fileSystem(ctx context.Context, s *state, o AttachOptions, redoMkfs bool) error {
	device, err := w.deviceOf(s)
	if err != nil || device == "" {
		return joinLine(err, block.Errorf(block.Internal, "attach %s: its device has vanished", s.Target))
	}
	if o.Mkfs {
		if err := w.makeBlank(ctx, s, device, redoMkfs); err != nil {
			return err
		}
	}
	if o.MountDir == "" {
		return nil
	}
	return w.step("mount", func() error {
		dir, err := resolveDir(o.MountDir)
		if err != nil {
			return err
		}
		made, err := prepareMountDir(dir)
		if err != nil {
			return err
		}
		s.MountDir, s.MadeMountDir = dir, made
		err = w.store.save(s)
		if err == nil {
			err = mountExt4(device, dir, s.ReadOnly)
		}
		if err != nil && s.Phase == phaseAttached { // no rollback of the rest
			s.MountDir, s.MadeMountDir = "", false
			if made {
				err = joinLine(err, os.Remove(dir))
			}
			err = joinLine(err, w.store.save(s))
		}
		return err
	})
}

// makeBlank makes a file system on a blank device; one that has one is fine.
func (w *Worker) makeBlank(ctx context.Context, s *state, device string, redo bool) error {
	found := contentBlank
	if err := w.step("look for a file system", func() (err error) {
		found, err = probe(device)
		return err
	}); err != nil {
		return err
	}
	switch {
	case redo:
	case found == contentExt4:
		return nil
	case found == contentOther:
		return block.Errorf(block.Exists, "%s holds data that is no ext4 file system: --mkfs makes one only on a blank volume", s.Target)
	}
	before := s.Phase
	s.Phase = phaseMkfs
	if err := w.store.save(s); err != nil {
		return err
	}
	if err := w.step("mkfs", func() error { return mkfs(ctx, device) }); err != nil {
		return err
	}
	if before == phaseMkfs {
		before = phaseAttaching
	}
	s.Phase = before
	return w.store.save(s)
}

// resolveDir is dir without symbolic links as far as it exists, which is how
// mountinfo shows it.
func resolveDir(dir string) (string, error) {
	dir = filepath.Clean(dir)
	real, err := filepath.EvalSymlinks(dir)
	if errGone(err) {
		parent, err := resolveExisting(filepath.Dir(dir))
		return filepath.Join(parent, filepath.Base(dir)), err
	}
	if err != nil {
		return "", block.Errorf(block.KindOfFile(err), "mount directory %s: %w", dir, err)
	}
	return real, nil
}

func resolveExisting(dir string) (string, error) {
	real, err := filepath.EvalSymlinks(dir)
	if errGone(err) {
		return dir, nil // made by MkdirAll; no link can be in what is not there
	}
	if err != nil {
		return "", block.Errorf(block.KindOfFile(err), "mount directory %s: %w", dir, err)
	}
	return real, nil
}

// describe is what the user sees of an attached target.
func (w *Worker) describe(s *state) (*Attached, error) {
	device, err := w.deviceOf(s)
	if err != nil {
		return nil, err
	}
	a := &Attached{Target: s.Target, Device: device, Driver: s.Driver, Mount: s.MountDir, ReadOnly: s.ReadOnly, SizeBytes: s.SizeBytes, AttachmentID: s.AttachmentID}
	if s.Base != nil && w.Prefetch {
		a.Files, a.Base, a.baseID = s.Base.files, s.Base.target, s.Base.ID
	}
	return a, nil
}

// deviceOf returns the device that was made just now, or asks the kernel for it.
func (w *Worker) deviceOf(s *state) (string, error) {
	if s.device != "" {
		return s.device, nil
	}
	return w.driver(s.Driver).device(s)
}

// deviceIDOf returns the number of a block device, for matching by device.
func deviceIDOf(path string) (uint64, bool) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, false
	}
	return st.Rdev, true
}
