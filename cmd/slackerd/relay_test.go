package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
	"github.com/slackerd/slacker/relay"
)

// TestRelayOverTLS: what speaks NBD as the kernel does, through a worker's relay,
// meets no error when a server that takes nothing but TLS is upgraded, killed, ended
// and stopped for longer than its requests may take, all under writes in flight; and
// what was answered is there.
func TestRelayOverTLS(t *testing.T) {
	dir := shortDir(t)
	files := newPKI(t, filepath.Join(dir, "pki"))
	args := serveArgs(filepath.Join(dir, "data"), "--tls-nbd", "require", "--tls-api", "require",
		"--tls-ca", files("server").CA, "--tls-cert", files("server").Cert, "--tls-key", files("server").Key)
	p := startServer(t, command(t, args...))
	admin, err := api.NewTLSClient(p.api[0], files("admin").Client)
	if err != nil {
		t.Fatal(err)
	}
	_, err = admin.CreateVolume(t.Context(), connect.NewRequest(&slackerv1.CreateVolumeRequest{Name: "v", SizeBytes: 16 << 20}))
	if err != nil {
		t.Fatal(err)
	}
	a, err := admin.Attach(t.Context(), connect.NewRequest(&slackerv1.AttachRequest{Target: "v", Worker: "w"}))
	if err != nil {
		t.Fatal(err)
	}
	o := nbdclient.DefaultSessionOptions()
	o.Connections, o.Attachment, o.Conn.TLS, o.Conn.StallTimeout = 2, true, files("admin").Client, time.Second
	session, err := nbdclient.OpenSession(t.Context(), p.nbd, a.Msg.GetExportName(), o)
	if err != nil {
		t.Fatal(err)
	}
	k := relayedKernel(t, session)
	w := writeThrough(k)
	args = append(args, "--nbd-listen", p.nbd[0])
	again := func() { p = startServer(t, command(t, args...)) }
	upgrades := 0
	for _, event := range []struct {
		name string
		do   func()
	}{
		{"upgrade", func() {
			if err := p.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
				t.Fatal(err)
			}
			upgrades++
			p.awaitLog(`"upgraded"`, upgrades)
		}},
		{"kill -9", func() { p.kill(); again() }},
		{"SIGTERM", func() { p.end(syscall.SIGTERM); again() }},
		{"SIGSTOP", func() {
			if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * o.Conn.StallTimeout) // the outage
			if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		before := session.Reconnected()
		w.longest.Store(0)
		event.do()
		w.progress(t)
		t.Logf("%s: longest wait of a write %v, %d new connections", event.name, time.Duration(w.longest.Load()).Round(time.Millisecond), session.Reconnected()-before)
		if session.Reconnected() == before {
			t.Errorf("%s: no connection was lost: this tests nothing", event.name)
		}
	}
	w.stop(t, k)
	if strings.Contains(p.text(), `"level":"error"`) {
		t.Errorf("the server has errors:\n%s", p.text())
	}
}

// relayedKernel is what speaks to a relay as the kernel does.
func relayedKernel(t *testing.T, session *nbdclient.Session) *nbdclient.Conn {
	t.Helper()
	theirs, ours, err := relay.Pair()
	if err != nil {
		t.Fatal(err)
	}
	nc, err := net.FileConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close() // nc has a descriptor of its own
	l := relay.Serve(session, ours, zap.NewNop())
	info := session.Info()
	info.Structured = false
	k := nbdclient.NewConn(nc, nbdclient.Addr{Network: "unix"}, info, 0)
	t.Cleanup(func() {
		_ = k.Close()
		l.Close()
		_ = session.Close()
		<-l.Drained()
	})
	return k
}

// throughWriters write numbers that grow, each to blocks of its own.
type throughWriters struct {
	wg       sync.WaitGroup
	ended    atomic.Bool
	longest  atomic.Int64 // wait of a write
	answered [8]atomic.Uint64
	errs     [8]error
}

func (w *throughWriters) block(i int, n uint64) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%04d%012d", i, n), block.Size/16)
}

func writeThrough(k *nbdclient.Conn) *throughWriters {
	w := &throughWriters{}
	for i := range w.answered {
		w.wg.Go(func() {
			for n := uint64(1); !w.ended.Load(); n++ {
				begun := time.Now()
				if w.errs[i] = k.WriteAt(context.Background(), w.block(i, n), uint64(i)*block.Size, n%16 == 0); w.errs[i] != nil {
					return
				}
				if took := int64(time.Since(begun)); took > w.longest.Load() {
					w.longest.Store(took)
				}
				w.answered[i].Store(n)
			}
		})
	}
	return w
}

// progress waits until each has written twice more.
func (w *throughWriters) progress(t *testing.T) {
	t.Helper()
	for i := range w.answered {
		from := w.answered[i].Load()
		for deadline := time.Now().Add(patience); w.answered[i].Load() < from+2; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("writer %d stands at %d", i, from)
			}
		}
	}
}

// stop ends the writers and looks for what was answered.
func (w *throughWriters) stop(t *testing.T, k *nbdclient.Conn) {
	t.Helper()
	w.ended.Store(true)
	w.wg.Wait()
	got := make([]byte, block.Size)
	for i := range w.answered {
		if w.errs[i] != nil {
			t.Errorf("writer %d: %v", i, w.errs[i])
		}
		if err := k.ReadAt(context.Background(), got, uint64(i)*block.Size); err != nil || !bytes.Equal(got, w.block(i, w.answered[i].Load())) {
			t.Errorf("block of writer %d: %.16q (%v), answered was %d", i, got, err, w.answered[i].Load())
		}
	}
}
