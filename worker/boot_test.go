package worker

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
)

// rebooted leaves what a worker has of an attachment after a reboot, with a state
// directory that outlived it: the state, and what the server knows.
func rebooted(t *testing.T, w *Worker, driver string) {
	t.Helper()
	must(t, w.store.init())
	a, err := w.API.Attach(t.Context(), connect.NewRequest(&slackerv1.AttachRequest{Target: "v", Worker: w.Worker}))
	must(t, err)
	must(t, w.store.save(&state{Version: stateVersion, Target: "v", Nonce: "n", Phase: phaseAttached, Driver: driver, Server: w.Server, Worker: w.Worker,
		AttachmentID: a.Msg.GetId(), ExportName: a.Msg.GetExportName(), Connections: 1, RequestSeconds: 5, DeadSeconds: 5, Created: time.Now(),
		MountDir: t.TempDir(), Boot: "another"}))
}

// TestEarlierBoot: what is of an earlier boot is told as stale, and goes by any of
// detach, list --clean and a new attach, at the server too. No agent is started for
// it (invariant 8).
func TestEarlierBoot(t *testing.T) {
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	for _, driver := range []string{driverNBD, driverFuse} {
		for name, end := range map[string]func(*Worker) error{
			"detach":         func(w *Worker) error { _, err := w.Detach(t.Context(), "v", false); return err },
			"detach --force": func(w *Worker) error { _, err := w.Detach(t.Context(), "v", true); return err },
			"list --clean":   func(w *Worker) error { _, err := w.Clean(t.Context()); return err },
		} {
			t.Run(driver+" "+name, func(t *testing.T) {
				needRoot(t)
				c := testConfig(t, f)
				c.Executable = "/nonexistent" // whoever starts an agent fails
				w := testWorker(t, c)
				rebooted(t, w, driver)
				rows, err := w.List(t.Context())
				must(t, err)
				if len(rows) != 1 || rows[0].Condition != ConditionStale || !strings.Contains(rows[0].Why, "earlier boot") {
					t.Errorf("the list is %+v, want one row that is stale", rows)
				}
				if _, err := w.Restart(t.Context(), []string{"v"}); !block.Is(err, block.NotFound) {
					t.Errorf("restart: %v", err)
				}
				must(t, end(w))
				rows, err = w.List(t.Context())
				must(t, err)
				if len(rows) != 0 || f.count() != 0 {
					t.Errorf("afterwards the list is %+v, and the server has %d", rows, f.count())
				}
			})
		}
	}
}

// TestAttachAfterReboot attaches anew over what an earlier boot left, and again.
func TestAttachAfterReboot(t *testing.T) {
	needFuse(t)
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	w := testWorker(t, testConfig(t, f))
	rebooted(t, w, driverFuse)
	a, err := w.Attach(t.Context(), "v", fuseOptions(""))
	must(t, err)
	if a.Already || f.count() != 1 {
		t.Errorf("attached %+v, the server has %d attachments, want a new one", a, f.count())
	}
	s, err := w.store.load("v")
	must(t, err)
	if want := bootID(); s.Boot != want || want == "" {
		t.Errorf("the state is of boot %q, want %q", s.Boot, want)
	}
	if a, err = w.Attach(t.Context(), "v", fuseOptions("")); err != nil || !a.Already {
		t.Errorf("attach again: %+v, %v", a, err)
	}
	_, err = w.Detach(context.Background(), "v", false)
	must(t, err)
}

// TestEarlierBootServerAway: a server that is away is no obstacle to a forced
// detach; without force it is, and the state stays.
func TestEarlierBootServerAway(t *testing.T) {
	needRoot(t)
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	c := testConfig(t, f)
	w := testWorker(t, c)
	rebooted(t, w, driverFuse)
	f.mu.Lock()
	clear(f.attachments) // as far as this test counts
	f.mu.Unlock()
	f.away()
	if _, err := w.Detach(t.Context(), "v", false); !block.Is(err, block.Unavailable) {
		t.Errorf("detach without the server: %v", err)
	}
	_, err := w.Detach(t.Context(), "v", true)
	must(t, err)
}

// TestCleanWithoutServer: a worker whose server does not answer cannot know that
// nothing is left there, and says so; so what cleans after a boot tries again.
func TestCleanWithoutServer(t *testing.T) {
	needRoot(t)
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	w := testWorker(t, testConfig(t, f))
	f.mu.Lock()
	clear(f.attachments) // as far as this test counts
	f.mu.Unlock()
	f.away()
	if cleaned, err := w.Clean(t.Context()); !block.Is(err, block.Unavailable) || len(cleaned) > 0 {
		t.Errorf("clean without the server: %v, %v; want it to fail", cleaned, err)
	}
	if rows, err := w.List(t.Context()); len(rows) > 0 || err != nil {
		t.Errorf("list without the server: %v, %v", rows, err)
	}
}

// TestListWhileServerHangs: a server that takes requests and answers none holds a
// listing up for seconds; what is attached here is shown.
func TestListWhileServerHangs(t *testing.T) {
	needRoot(t)
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	w := testWorker(t, testConfig(t, f))
	rebooted(t, w, driverFuse)
	begun := time.Now()
	f.mu.Lock() // the server waits for it
	rows, serverErr, err := w.list(t.Context())
	f.mu.Unlock()
	must(t, err)
	if took := time.Since(begun); took > apiTimeout/2 {
		t.Errorf("it took %v, want about %v", took, listTimeout)
	}
	if len(rows) != 1 || rows[0].Target != "v" {
		t.Errorf("rows %+v, want the one of v", rows)
	}
	if !block.Is(serverErr, block.Unavailable) || !strings.Contains(serverErr.Error(), f.url) {
		t.Errorf("of the server it says %v", serverErr)
	}
	_, err = w.Detach(t.Context(), "v", true)
	must(t, err)
}

// TestForcedDetachRefused: when the server refuses to end an attachment, a forced
// detach says so and leaves nothing here; the next one asks again.
func TestForcedDetachRefused(t *testing.T) {
	needRoot(t)
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	w := testWorker(t, testConfig(t, f))
	rebooted(t, w, driverFuse)
	refuse := func(err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.refuse = err
	}
	refuse(block.Errorf(block.Permission, "not you"))
	if _, err := w.Detach(t.Context(), "v", false); !block.Is(err, block.Permission) {
		t.Errorf("detach: %v, want it refused", err)
	}
	if s, err := w.store.load("v"); s == nil || err != nil {
		t.Errorf("state %+v (%v): it went without force", s, err)
	}
	if _, err := w.Detach(t.Context(), "v", true); !block.Is(err, block.Permission) {
		t.Errorf("detach by force: %v, want it refused", err)
	}
	if s, err := w.store.load("v"); s != nil || err != nil {
		t.Errorf("state %+v (%v) is left", s, err)
	}
	refuse(nil)
	_, err := w.Detach(t.Context(), "v", false)
	must(t, err)
	if n := f.count(); n != 0 {
		t.Errorf("%d attachments are left at the server", n)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}
