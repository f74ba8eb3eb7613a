package worker

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/genetlink/genltest"
	"github.com/mdlayher/netlink"
)

// TestRelay: bytes pass both ways, and the end of one side is that of the other.
func TestRelay(t *testing.T) {
	far, conn := net.Pipe()
	f, err := relay(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	buf := make([]byte, 4)
	if _, err := f.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(far, buf); err != nil || string(buf) != "ping" {
		t.Fatalf("%q, %v", buf, err)
	}
	if _, err := far.Write([]byte("pong")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(f, buf); err != nil || string(buf) != "pong" {
		t.Fatalf("%q, %v", buf, err)
	}
	if isDead(f) {
		t.Fatal("it is dead while both sides live")
	}
	_ = far.Close()
	if _, err := f.Read(buf); err != io.EOF || !isDead(f) {
		t.Fatalf("after the end of the far side: %v, dead %v", err, isDead(f))
	}
}

// TestNBDDown: the device is disconnected only once the monitor has ended,
// which would connect it again; and not at all when it is gone already.
func TestNBDDown(t *testing.T) {
	for name, c := range map[string]struct{ connected, held, force bool }{
		"connected": {connected: true}, "disconnected": {}, "by force, and somebody has it open": {connected: true, held: true, force: true},
	} {
		var order []string
		d := nbdDriver{store: store{t.TempDir()}, sysfs: t.TempDir()}
		s := &state{Target: "v", AttachmentID: "att7"}
		dir := d.sys("block", "nbd3")
		must(t, os.MkdirAll(dir, 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "backend"), []byte("att7\n"), 0o600))
		if c.connected {
			must(t, os.WriteFile(filepath.Join(dir, "pid"), []byte("1\n"), 0o600))
		}
		ended := fakeMonitor(t, d.agent(s))
		kernel := func(m genetlink.Message, _ netlink.Message) ([]genetlink.Message, error) {
			if m.Header.Command == 0 {
				return nil, nil // the client reads the acknowledgement
			}
			select {
			case <-ended:
				order = append(order, "monitor ended")
			default:
			}
			order = append(order, fmt.Sprintf("command %d of nbd%d", m.Header.Command, decode(t, m.Data).numbers[nbdAttrIndex]))
			if c.held {
				return nil, nil
			}
			return nil, os.Remove(filepath.Join(dir, "pid"))
		}
		d.open = func() (*nbdLink, error) { return newNBDLink(genltest.Dial(genltest.ServeFamily(testFamily, kernel))) }
		must(t, d.down(t.Context(), s, c.force))
		if pid := d.agent(s).pid(); pid != 0 {
			t.Errorf("%s: the monitor lives on", name)
		}
		want := []string{"monitor ended", fmt.Sprintf("command %d of nbd3", nbdCmdDisconnect)}
		if !c.connected {
			want = nil
		}
		if !slices.Equal(order, want) {
			t.Errorf("%s: %v, want %v", name, order, want)
		}
	}
}

// fakeMonitor is a process that holds the lock of an agent until a signal ends
// it; then ended is closed.
func fakeMonitor(t *testing.T, a agent) (ended <-chan struct{}) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	must(t, cmd.Start())
	f, locked, err := a.lockFile(os.O_CREATE)
	if err != nil || !locked {
		t.Fatalf("lock of the agent: %v, %v", locked, err)
	}
	must(t, writeAt(f, fmt.Sprintln(cmd.Process.Pid)))
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // by a signal
		close(done)
		_ = f.Close()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, unless the test failed
		<-done
	})
	return done
}
