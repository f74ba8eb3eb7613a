package worker

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/slackerd/slacker/block"
)

const modprobeTimeout = 10 * time.Second

// nbdDriver is the kernel's NBD client, and a monitor that replaces its dead
// sockets.
type nbdDriver struct {
	store store
	step  func(name string, took time.Duration) // is told what an attach does; may be nil
	sysfs string                                // "" is /sys; tests have their own
	open  func() (*nbdLink, error)              // nil is openNBDLink; tests have their own
	// modules is the directory of the running kernel's modules; "" is the usual
	// one.
	modules string
}

func (d nbdDriver) link() (*nbdLink, error) {
	if d.open != nil {
		return d.open()
	}
	return openNBDLink()
}

func (d nbdDriver) agent(s *state) agent { return agent{d.store, s.Target} }

func (d nbdDriver) sys(elem ...string) string {
	root := d.sysfs
	if root == "" {
		root = "/sys"
	}
	return filepath.Join(append([]string{root}, elem...)...)
}

func (d nbdDriver) check() error {
	if _, err := os.Stat(d.sys("module", "nbd")); err != nil {
		if why := d.loadModule(); why != "" {
			return block.Errorf(block.Unsupported, "nbd driver: kernel %s has no module nbd (%s): install the Debian package linux-image-amd64, whose kernels have it, or use --driver fuse",
				kernelRelease(), why)
		}
	}
	link, err := d.link()
	if err != nil {
		return block.Wrap(block.Unsupported, err, "nbd driver")
	}
	link.close()
	return nil
}

// loadModule loads the kernel module, and says why it could not. It runs no
// modprobe when the list of modules shows that there is none: that would take a
// good part of the time of an attach.
func (d nbdDriver) loadModule() string {
	dir := d.modules
	if dir == "" {
		dir = filepath.Join("/lib/modules", kernelRelease())
	}
	list, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if errGone(err) || err == nil && !bytes.Contains(list, []byte("/nbd.ko")) {
		return "none in " + dir
	}
	ctx, cancel := context.WithTimeout(context.Background(), modprobeTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "modprobe", "nbd").CombinedOutput()
	if err != nil {
		return fmt.Sprintf("modprobe nbd: %.200s", strings.Join(strings.Fields(string(out)+" "+err.Error()), " "))
	}
	return ""
}

func kernelRelease() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease") // "" then, in a message
	return strings.TrimSpace(string(b))
}

func (d nbdDriver) launch(s *state, executable string) (*launched, error) {
	return d.agent(s).launch(executable, AgentMonitor, s.Nonce)
}

func (d nbdDriver) up(ctx context.Context, _ *state, l *launched) (string, error) {
	report, err := l.begin(ctx)
	if err != nil {
		return "", err
	}
	if d.step != nil {
		tellSteps(report, d.step)
	}
	name, _, _ := strings.Cut(report, ";")
	return "/dev/" + name, nil
}

func (d nbdDriver) device(s *state) (string, error) {
	index, ok, err := d.index(s.AttachmentID)
	if err != nil || !ok {
		return "", err
	}
	return fmt.Sprintf("/dev/nbd%d", index), nil
}

// index finds the connected device of an attachment.
func (d nbdDriver) index(attachmentID string) (index uint32, ok bool, err error) {
	all, err := d.connected()
	index, ok = all[attachmentID]
	return index, ok, err
}

// connected returns the connected devices by their backend identifiers, which are
// the attachments.
func (d nbdDriver) connected() (map[string]uint32, error) {
	names, err := filepath.Glob(d.sys("block", "nbd*", "backend"))
	if err != nil {
		return nil, block.Errorf(block.Internal, "list nbd devices: %w", err)
	}
	all := map[string]uint32{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		id := strings.TrimSpace(string(b))
		if err != nil || id == "" {
			continue
		}
		dir := filepath.Dir(name)
		if _, err := os.Stat(filepath.Join(dir, "pid")); err != nil {
			continue // not connected
		}
		n, err := strconv.ParseUint(strings.TrimPrefix(filepath.Base(dir), "nbd"), 10, 32)
		if err == nil {
			all[id] = uint32(n)
		}
	}
	return all, nil
}

func (d nbdDriver) healthy(ctx context.Context, s *state, executable string) error {
	device, err := d.device(s)
	if err != nil {
		return err
	}
	if device == "" {
		return block.Errorf(block.IO, "%s: its nbd device is gone: %s", s.Target, d.agent(s).lastWords())
	}
	if d.agent(s).pid() != 0 {
		return nil
	}
	// The device works without its monitor, but would not survive a restart of
	// the server: have one again.
	_, err = d.agent(s).start(ctx, executable, AgentMonitor, s.Nonce)
	return err
}

func (d nbdDriver) down(ctx context.Context, s *state, force bool) error {
	// The monitor first: it would connect again what is disconnected here. With
	// TLS the kernel's socket dies with it; what was to be written has been synced
	// before.
	if err := d.agent(s).stop(settleTimeout / 2); err != nil {
		return err
	}
	index, ok, err := d.index(s.AttachmentID)
	if err != nil || !ok {
		return err
	}
	link, err := d.link()
	if err != nil {
		return err
	}
	defer link.close()
	if err := link.disconnect(index); err != nil {
		return err
	}
	gone := func() (bool, error) {
		_, still, err := d.index(s.AttachmentID)
		return !still, err
	}
	limit := settleTimeout
	if force { // the kernel clears it by itself once nobody has it open
		limit = forcedSettleTimeout
	}
	if err := awaitFor(ctx, limit, gone); err != nil && !force {
		device := fmt.Sprintf("/dev/nbd%d", index)
		return block.Errorf(block.Busy, "%s is still in use%s: %w", device, users(device), err)
	}
	return nil
}
