package rig

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
)

// Bounds of waiting. Emulation is slow, and other tests may run beside it.
const (
	bootLimit  = 5 * time.Minute
	guestLimit = 10 * time.Minute
	hostLimit  = time.Minute
)

// bin and kernel are made once by TestMain.
var bin, kernel string

func TestMain(m *testing.M) {
	if os.Getenv("RIG") == "" {
		fmt.Println("rig: the kernel tests are skipped: they fetch a kernel and take minutes; run them with make rig (RIG=1)")
		os.Exit(0)
	}
	status, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "rig:", err)
		status = 1
	}
	os.Exit(status)
}

func runTests(m *testing.M) (status int, err error) {
	root, err := filepath.Abs("..")
	if err != nil {
		return 1, err
	}
	for _, tool := range []string{"qemu-system-x86_64", "busybox", "cpio", "xz", "strings", "mkfs.ext4", "fstrim", "nbd-client", "fio", "sqlite3", "redis-check-rdb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return 1, fmt.Errorf("%s is not installed: run make setup", tool)
		}
	}
	cache := filepath.Join(root, ".cache", "kernel")
	kernel = filepath.Join(cache, "root")
	if bin, err = os.MkdirTemp("", "slacker-rig"); err != nil {
		return 1, err
	}
	defer func() {
		if e := os.RemoveAll(bin); err == nil {
			err = e
		}
	}()
	for _, command := range [][]string{
		{"./fetch-kernel.sh", cache},
		{"go", "build", "-tags", "rig", "-o", bin, "../cmd/slackerd", "../cmd/slacker-client", "./guest/load"},
	} {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return 1, fmt.Errorf("%s: %w", strings.Join(command, " "), err)
		}
	}
	return m.Run(), nil
}

// host is a slackerd on the host, which may be killed and started again.
type host struct {
	t        *testing.T
	dir      string
	nbd, api int // ports
	tls      *pki
	cmd      *exec.Cmd
	log      *os.File
}

// newHost starts a server with a volume named v.
func newHost(t *testing.T) *host { return newTLSHost(t, nil) }

// newTLSHost is newHost of a server that requires TLS, unless p is nil.
func newTLSHost(t *testing.T, p *pki) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir(), nbd: freePort(t), api: freePort(t), tls: p}
	log, err := os.Create(filepath.Join(h.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	h.log = log
	h.start()
	t.Cleanup(func() {
		h.kill()
		if t.Failed() {
			t.Logf("log of the server:\n%s", h.text())
		}
		_ = log.Close()
	})
	h.create("v")
	return h
}

func (h *host) create(name string) {
	h.t.Helper()
	client, err := h.tls.client("tcp://127.0.0.1:" + strconv.Itoa(h.api))
	if err == nil {
		_, err = client.CreateVolume(context.Background(), connect.NewRequest(&slackerv1.CreateVolumeRequest{Name: name, SizeBytes: 256 << 20}))
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func (h *host) text() string {
	b, err := os.ReadFile(h.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// start starts the server and waits until it serves.
func (h *host) start() {
	h.t.Helper()
	before := strings.Count(h.text(), `"serving"`)
	h.cmd = exec.Command(filepath.Join(bin, "slackerd"), "serve", "--data-dir", filepath.Join(h.dir, "data"),
		"--nbd-listen", fmt.Sprintf("tcp://127.0.0.1:%d", h.nbd), "--api-listen", fmt.Sprintf("tcp://127.0.0.1:%d", h.api),
		"--nbd-advertise", fmt.Sprintf("tcp://10.0.2.2:%d", h.nbd), "--log-level", "debug")
	h.cmd.Args = append(h.cmd.Args, h.tls.serverFlags()...)
	h.cmd.Stderr = h.log
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.await(func() bool { return strings.Count(h.text(), `"serving"`) > before }, "serve", hostLimit)
}

func (h *host) await(done func() bool, what string, limit time.Duration) {
	h.t.Helper()
	for deadline := time.Now().Add(limit); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("the server does not %s after %v:\n%s", what, limit, h.text())
		}
	}
}

func (h *host) kill() {
	_ = h.cmd.Process.Signal(syscall.SIGKILL) // it may have ended
	_ = h.cmd.Wait()
}

// guest is a booted kernel that runs one test.
type guest struct {
	t       *testing.T
	console string
	monitor string // QEMU's own, a unix socket
	control string // what the guest listens on at port 5555
	cmd     *exec.Cmd
	done    chan struct{} // closed when it is off
}

// boot starts a test of guest/ with arguments.
func boot(t *testing.T, test string, args ...string) *guest {
	t.Helper()
	return bootWith(t, nil, test, args...)
}

// bootWith is boot with more files in the guest, SOURCE:DESTINATION.
func bootWith(t *testing.T, files []string, test string, args ...string) *guest {
	t.Helper()
	dir := t.TempDir()
	initramfs := filepath.Join(dir, "initramfs")
	files = append([]string{kernel, initramfs, "guest/" + test + ".sh:/test.sh", "guest/lib.sh:/lib.sh",
		filepath.Join(bin, "slacker-client") + ":/usr/bin/slacker-client"}, files...)
	out, err := exec.Command("./initramfs.sh", files...).CombinedOutput()
	if err != nil {
		t.Fatalf("make the initramfs: %v\n%s", err, out)
	}
	images, err := filepath.Glob(filepath.Join(kernel, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		t.Fatalf("kernels in %s: %v (error %v), want one", kernel, images, err)
	}
	g := &guest{t: t, console: filepath.Join(dir, "console"), monitor: filepath.Join(dir, "monitor"),
		control: fmt.Sprintf("127.0.0.1:%d", freePort(t)), done: make(chan struct{})}
	// cx16: QEMU 7.2 emulates CMPXCHG16B wrongly, which crashes kernels.
	g.cmd = exec.Command("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-M", "pc", "-cpu", "qemu64,-cx16", "-smp", "2", "-m", "768",
		"-nodefaults", "-no-user-config", "-display", "none", "-monitor", "unix:"+g.monitor+",server=on,wait=off", "-no-reboot", "-serial", "file:"+g.console,
		"-kernel", images[0], "-initrd", initramfs,
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off rig.args="+strings.Join(args, ","),
		"-netdev", "user,id=n0,hostfwd=tcp:"+g.control+"-:5555", "-device", "virtio-net-pci,netdev=n0,romfile=")
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(g.done)
		_ = g.cmd.Wait() // the console tells how it ended
	}()
	t.Cleanup(func() {
		_ = g.cmd.Process.Kill()
		<-g.done
	})
	return g
}

func (g *guest) text() string {
	b, err := os.ReadFile(g.console)
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(string(b), "\r", "")
}

// await waits until the console shows a mark.
func (g *guest) await(mark string, limit time.Duration) {
	g.t.Helper()
	for deadline := time.Now().Add(limit); !strings.Contains(g.text(), mark); {
		select {
		case <-g.done:
			if strings.Contains(g.text(), mark) {
				return
			}
			g.t.Fatalf("the guest ended before %s:\n%s", mark, g.text())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("the guest does not come to %s after %v:\n%s", mark, limit, g.text())
		}
	}
}

// pass waits until the test in the guest has passed.
func (g *guest) pass() {
	g.t.Helper()
	g.await("RIG-EXIT", guestLimit)
	if !strings.Contains(g.text(), "RIG-EXIT 0\n") {
		g.t.Fatalf("the test in the guest failed:\n%s", g.text())
	}
	for line := range strings.Lines(g.text()) {
		if strings.HasPrefix(line, "STEP") || strings.HasPrefix(line, "RIG-READY") {
			g.t.Log(strings.TrimSpace(line))
		}
	}
}

func TestBasic(t *testing.T) {
	h := newHost(t)
	boot(t, "basic", strconv.Itoa(h.api), strconv.Itoa(h.nbd)).pass()
}

// The first marked write is held by the server until after the kernel has
// given up on its connection, sent it again, and overwritten the block
// (contract C9).
func TestStaleWrite(t *testing.T) { staleWrite(t, nil) }

func staleWrite(t *testing.T, p *pki) {
	h := newTLSHost(t, p)
	g := bootWith(t, p.guestFiles(), "stale", strconv.Itoa(h.api), "1")
	g.await("RIG-OVERWRITTEN", bootLimit)
	h.await(func() bool { return strings.Contains(h.text(), "rig: the held write ended") }, "end the held write", hostLimit)
	g.pass()
	if !strings.Contains(h.text(), "rig: hold a write") {
		t.Error("the server held no write: this test tests nothing")
	}
}

// A forced detach works whatever the server does, and leaves nothing on the worker.
func TestForcedDetach(t *testing.T) { forcedDetach(t, nil) }

func forcedDetach(t *testing.T, p *pki) {
	if !*soakAll {
		t.Skip("two minutes: make rig-soak")
	}
	h := newTLSHost(t, p)
	g := bootWith(t, p.guestFiles(), "forced", strconv.Itoa(h.api))
	g.await("RIG-AWAY\n", bootLimit)
	h.kill()
	g.await("RIG-BACK\n", guestLimit)
	h.start()
	g.await("RIG-HANG\n", guestLimit)
	h.signal(syscall.SIGSTOP)
	for strings.Count(g.text(), "RIG-BACK\n") < 2 && !strings.Contains(g.text(), "RIG-EXIT") {
		time.Sleep(50 * time.Millisecond) // of waiting for the guest, which has limits of its own
	}
	h.signal(syscall.SIGCONT)
	g.pass()
}
