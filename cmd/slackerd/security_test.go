package main

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/certs"
	"github.com/slackerd/slacker/nbdclient"
)

// newPKI makes an authority in a directory, with certificates for a server, an
// admin and a worker, and returns who names their files.
func newPKI(t *testing.T, pki string) func(name string) certs.Files {
	t.Helper()
	if _, err := certs.Init(pki, "authority", time.Hour); err != nil {
		t.Fatal(err)
	}
	for _, r := range []certs.Request{{Name: "server", Hosts: []string{"127.0.0.1"}}, {Name: "admin"}, {Name: "worker"}} {
		r.Valid = time.Minute
		if _, err := certs.Issue(pki, r); err != nil {
			t.Fatal(err)
		}
	}
	return func(name string) certs.Files {
		return certs.Files{CA: filepath.Join(pki, "ca.crt"), Cert: filepath.Join(pki, name+".crt"), Key: filepath.Join(pki, name+".key")}
	}
}

// TestSecureServer runs a server that requires TLS and has access rules, as an
// admin, as a worker, and as somebody in plaintext.
func TestSecureServer(t *testing.T) {
	dir := shortDir(t)
	files := newPKI(t, filepath.Join(dir, "pki"))
	cmd := command(t, serveArgs(dir, "--tls-nbd", "require", "--tls-api", "require", "--log-level", "debug",
		"--tls-ca", files("server").CA, "--tls-cert", files("server").Cert, "--tls-key", files("server").Key)...)
	cmd.Env = append(cmd.Environ(), "SLACKER_ACCESS_RULES=cn=admin admin **,cn=worker read images/*,cn=worker write own")
	p := startServer(t, cmd)
	ctx := t.Context()
	admin, err := api.NewTLSClient(p.api[0], files("admin").Client)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"images/a", "own", "secret"} {
		if _, err := admin.CreateVolume(ctx, connect.NewRequest(&slackerv1.CreateVolumeRequest{Name: name, SizeBytes: 1 << 20})); err != nil {
			t.Fatal(err)
		}
	}
	worker, err := api.NewTLSClient(p.api[0], files("worker").Client)
	if err != nil {
		t.Fatal(err)
	}
	list, err := worker.ListVolumes(ctx, connect.NewRequest(&slackerv1.ListVolumesRequest{}))
	if err != nil || len(list.Msg.GetVolumes()) != 2 {
		t.Errorf("the worker's list: %v, %v", list, err)
	}
	_, err = worker.DeleteVolume(ctx, connect.NewRequest(&slackerv1.DeleteVolumeRequest{Name: "own"}))
	if err = api.FromConnect(err); !block.Is(err, block.Permission) || !strings.Contains(err.Error(), `cn="worker" may not admin volume own`) {
		t.Errorf("the worker deletes: %v", err)
	}
	plain, err := api.NewClient(p.api[0])
	if err != nil {
		t.Fatal(err)
	}
	_, err = plain.ListVolumes(ctx, connect.NewRequest(&slackerv1.ListVolumesRequest{}))
	if err = api.FromConnect(err); !block.Is(err, block.Invalid) || !strings.Contains(err.Error(), "takes TLS only") {
		t.Errorf("the API asked in plaintext: %v, want that it takes TLS only", err)
	}
	nbdOfSecureServer(ctx, t, p.nbd[0], files("worker").Client)
	if status := p.end(syscall.SIGTERM); status != 0 {
		t.Errorf("exit status %d", status)
	}
	noKeysIn(t, p.text(), filepath.Join(dir, "pki"))
}

// nbdOfSecureServer opens exports as the worker.
func nbdOfSecureServer(ctx context.Context, t *testing.T, addr string, secure func() (*tls.Config, error)) {
	t.Helper()
	opts := nbdclient.DefaultOptions()
	if _, err := nbdclient.Dial(ctx, addr, "own", opts); err == nil || !strings.Contains(err.Error(), "TLS required") {
		t.Errorf("NBD in plaintext: %v", err)
	}
	opts.TLS = secure
	for name, readOnly := range map[string]bool{"own": false, "images/a": true} {
		c, err := nbdclient.Dial(ctx, addr, name, opts)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Info().Flags.Has(nbdclient.FlagReadOnly); got != readOnly {
			t.Errorf("%s is read-only %v, want %v", name, got, readOnly)
		}
		data := make([]byte, 8192)
		if err := c.WriteAt(ctx, data, 0, true); (err != nil) != readOnly {
			t.Errorf("write to %s: %v", name, err)
		}
		if err := c.ReadAt(ctx, data, 4096); err != nil {
			t.Errorf("read of %s: %v", name, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	var texts []string
	for _, name := range []string{"secret", "sacred"} { // one exists, one does not
		_, err := nbdclient.Dial(ctx, addr, name, opts)
		if !block.Is(err, block.Permission) {
			t.Errorf("%s opens with %v", name, err)
			continue
		}
		texts = append(texts, strings.ReplaceAll(err.Error(), name, "X"))
	}
	if len(texts) == 2 && texts[0] != texts[1] {
		t.Errorf("the refusal tells whether a volume exists: %q", texts)
	}
}

// TestBadTLSFiles: a server that cannot have the TLS that was asked for does
// not serve, and says why.
func TestBadTLSFiles(t *testing.T) {
	dir := shortDir(t)
	_, err := certs.Init(dir, "authority", time.Hour)
	for _, name := range []string{"a", "b", "open"} {
		_, ierr := certs.Issue(dir, certs.Request{Name: name, Hosts: []string{"127.0.0.1"}, Valid: time.Minute})
		err = errors.Join(err, ierr)
	}
	if err := errors.Join(err, os.Chmod(filepath.Join(dir, "open.key"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		ca, cert, key string
		status        int
		want          string
	}{
		"no file":        {"ca.crt", "none.crt", "a.key", 3, "none.crt"},
		"another's key":  {"ca.crt", "a.crt", "b.key", 2, "does not match"},
		"an open key":    {"ca.crt", "open.crt", "open.key", 11, "open.key"},
		"no authority":   {"a.key", "a.crt", "a.key", 2, "want certificates in PEM"},
		"no certificate": {"ca.crt", "a.key", "a.key", 2, "a.key"},
	} {
		t.Run(name, func(t *testing.T) {
			_, stderr, status := runCommand(t, serveArgs(filepath.Join(dir, "data"), "--tls-nbd", "require", "--tls-ca", filepath.Join(dir, c.ca),
				"--tls-cert", filepath.Join(dir, c.cert), "--tls-key", filepath.Join(dir, c.key))...)
			if status != c.status || !strings.Contains(stderr, c.want) || strings.Contains(stderr, "PRIVATE") {
				t.Errorf("status %d, want %d and %q in:\n%s", status, c.status, c.want, stderr)
			}
		})
	}
}

// noKeysIn: nothing of a key is in a log.
func noKeysIn(t *testing.T, text, pki string) {
	t.Helper()
	keys, err := filepath.Glob(filepath.Join(pki, "*.key"))
	if err != nil || len(keys) != 4 {
		t.Fatalf("keys %v, %v", keys, err)
	}
	for _, name := range keys {
		key, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(strings.TrimSpace(string(key)), "\n") {
			if strings.Contains(text, line) {
				t.Errorf("the log holds a line of %s", name)
			}
		}
	}
	if strings.Contains(text, "PRIVATE KEY") {
		t.Error("the log holds a key")
	}
}
