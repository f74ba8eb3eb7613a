package main

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
)

// TestUpgradeOverTLS asks for upgrades through the API, over TLS, while a worker's
// session writes over TLS: its connections cannot move, it connects again and meets
// no error. Nobody but an admin may ask.
func TestUpgradeOverTLS(t *testing.T) {
	dir := shortDir(t)
	files := newPKI(t, filepath.Join(dir, "pki"))
	cmd := command(t, serveArgs(filepath.Join(dir, "data"), "--tls-nbd", "require", "--tls-api", "require",
		"--tls-ca", files("server").CA, "--tls-cert", files("server").Cert, "--tls-key", files("server").Key)...)
	cmd.Env = append(cmd.Environ(), "SLACKER_ACCESS_RULES=cn=admin admin **,cn=worker write v")
	p := startServer(t, cmd)
	ctx := t.Context()
	admin, err := api.NewTLSClient(p.api[0], files("admin").Client)
	if err != nil {
		t.Fatal(err)
	}
	worker, err := api.NewTLSClient(p.api[0], files("worker").Client)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CreateVolume(ctx, connect.NewRequest(&slackerv1.CreateVolumeRequest{Name: "v", SizeBytes: 1 << 20})); err != nil {
		t.Fatal(err)
	}
	a, err := worker.Attach(ctx, connect.NewRequest(&slackerv1.AttachRequest{Target: "v", Worker: "w"}))
	if err != nil {
		t.Fatal(err)
	}
	o := nbdclient.DefaultSessionOptions()
	o.Connections, o.Attachment, o.Conn.TLS = 2, true, files("worker").Client
	session, err := nbdclient.OpenSession(ctx, p.nbd, a.Msg.GetExportName(), o)
	if err != nil {
		t.Fatal(err)
	}
	stop := writeAlways(ctx, t, session)
	if _, err := worker.UpgradeServer(ctx, connect.NewRequest(&slackerv1.UpgradeServerRequest{})); !block.Is(api.FromConnect(err), block.Permission) {
		t.Errorf("the worker upgrades the server: %v", err)
	}
	for n := uint64(1); n <= 2; n++ {
		begun, err := admin.UpgradeServer(ctx, connect.NewRequest(&slackerv1.UpgradeServerRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		if m := begun.Msg; m.GetUpgrades() != n-1 || m.GetInstalled() != versionText() || m.GetVersion() != versionText() {
			t.Errorf("upgrade %d begins with %v, want %d upgrades from and to %s", n, m, n-1, versionText())
		}
		p.awaitLog(`"upgraded"`, int(n))
		st, err := admin.GetStatus(ctx, connect.NewRequest(&slackerv1.GetStatusRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		if u := st.Msg.GetUpgrade(); u.GetCount() != n || u.GetFrom() != versionText() || u.GetPauseMicros() == 0 {
			t.Errorf("after upgrade %d the status says %v", n, u)
		}
	}
	stop()
	if err := session.Close(); err != nil {
		t.Error(err)
	}
	if status := p.end(syscall.SIGTERM); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// writeAlways writes and reads back until stop is called.
func writeAlways(ctx context.Context, t *testing.T, s *nbdclient.Session) (stop func()) {
	var ended atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		got := make([]byte, block.Size)
		for i := 0; !ended.Load(); i++ {
			want := bytes.Repeat(fmt.Appendf(nil, "%016d", i), block.Size/16)
			at := uint64(i%256) * block.Size
			if err := s.WriteAt(ctx, want, at, i%8 == 0); err != nil {
				t.Errorf("write %d: %v", i, err)
				return
			}
			if err := s.ReadAt(ctx, got, at); err != nil || !bytes.Equal(got, want) {
				t.Errorf("read %d: %v, the same %v", i, err, bytes.Equal(got, want))
				return
			}
		}
	})
	return func() { ended.Store(true); wg.Wait() }
}

// TestUpgradeOverAPIRefused leaves the running program where the installed one
// does not accept the configuration, and says so to whoever asked.
func TestUpgradeOverAPIRefused(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "slackerd.yaml")
	writeFile(t, file, "log:\n  level: info\n")
	p := startServer(t, command(t, serveArgs(filepath.Join(dir, "data"), "--config", file)...))
	writeFile(t, file, "log:\n  level: loud\n")
	ask := func() error {
		_, err := p.client().UpgradeServer(t.Context(), connect.NewRequest(&slackerv1.UpgradeServerRequest{}))
		return api.FromConnect(err)
	}
	if err := ask(); !block.Is(err, block.Invalid) {
		t.Errorf("upgrade with a spoiled configuration: %v", err)
	}
	writeFile(t, file, "log:\n  level: info\n")
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	p.awaitLog(`"upgraded"`, 1)
	p.create("v")
}
