package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slackerd/slacker/block"
)

const year = 365 * 24 * time.Hour

// newAuthority makes an authority with a server and a client certificate.
func newAuthority(t *testing.T) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "pki")
	if _, err := Init(dir, "test-authority", 10*year); err != nil {
		t.Fatal(err)
	}
	for _, r := range []Request{{Name: "server", Hosts: []string{"localhost", "127.0.0.1"}, Valid: year}, {Name: "worker-1", URI: "spiffe://x/1", Valid: year}} {
		if _, err := Issue(dir, r); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func filesOf(dir, name string) Files {
	return Files{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key")}
}

func newSource(t *testing.T, dir string, failed func(error)) *Source {
	t.Helper()
	s, err := NewSource(filesOf(dir, "server"), failed)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// shake runs a handshake and returns the server's view.
func shake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	client = client.Clone()
	client.ServerName = "localhost"
	c := tls.Client(b, client)
	clientErr := make(chan error, 1)
	go func() {
		err := c.HandshakeContext(ctx)
		if err == nil {
			_, err = c.Read(make([]byte, 1)) // a refused certificate shows here
		}
		clientErr <- err
	}()
	s := tls.Server(a, server)
	err := s.HandshakeContext(ctx)
	if err == nil {
		_, err = s.Write([]byte{1})
	}
	_ = a.Close()
	if cerr := <-clientErr; err == nil {
		err = cerr
	}
	return s.ConnectionState(), err
}

func clientConfig(t *testing.T, f Files) *tls.Config {
	t.Helper()
	c, err := f.Client()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHandshake(t *testing.T) {
	dir, other := newAuthority(t), newAuthority(t)
	server := newSource(t, dir, nil).Server()
	state, err := shake(t, server, clientConfig(t, filesOf(dir, "worker-1")))
	if err != nil || state.Version != tls.VersionTLS13 || state.PeerCertificates[0].Subject.CommonName != "worker-1" ||
		state.PeerCertificates[0].URIs[0].String() != "spiffe://x/1" {
		t.Fatalf("state %+v: %v", state, err)
	}
	old := clientConfig(t, filesOf(dir, "worker-1"))
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	mixed := filesOf(other, "worker-1")
	mixed.CA = filesOf(dir, "").CA
	for name, c := range map[string]*tls.Config{
		"no certificate":                 clientConfig(t, Files{CA: filesOf(dir, "").CA}),
		"a certificate of somebody else": clientConfig(t, mixed),
		"a server the client distrusts":  clientConfig(t, filesOf(other, "worker-1")),
		"a server certificate":           clientConfig(t, filesOf(dir, "server")),
		"TLS 1.2":                        old,
	} {
		if _, err := shake(t, server, c); err == nil {
			t.Errorf("%s: the handshake succeeds", name)
		}
	}
}

// TestExpired: an expired client certificate is refused.
func TestExpired(t *testing.T) {
	dir := newAuthority(t)
	server := newSource(t, dir, nil).Server()
	server.GetConfigForClient = later(server, 2*year)
	if _, err := shake(t, server, clientConfig(t, filesOf(dir, "worker-1"))); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("the handshake ends with %v", err)
	}
}

// later moves the clock of the configurations that a server uses.
func later(c *tls.Config, by time.Duration) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	get := c.GetConfigForClient
	return func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		c, err := get(h)
		if err != nil {
			return nil, err
		}
		c = c.Clone()
		c.Time = func() time.Time { return time.Now().Add(by) }
		return c, nil
	}
}

// TestRenewal: renewed files count without a restart, bad ones change nothing (K3).
func TestRenewal(t *testing.T) {
	dir := newAuthority(t)
	var failures []error
	s := newSource(t, dir, func(err error) { failures = append(failures, err) })
	config, client := s.Server(), clientConfig(t, filesOf(dir, "worker-1"))
	s.looked = time.Time{} // a second has passed
	if _, err := Issue(dir, Request{Name: "server", Hosts: []string{"localhost"}, Valid: year / 2, Renew: true}); err != nil {
		t.Fatal(err)
	}
	before := s.Expires()
	if _, err := shake(t, config, client); err != nil {
		t.Fatal(err)
	}
	if !s.Expires().Before(before) {
		t.Error("the renewed certificate is not in force")
	}
	if err := os.WriteFile(filepath.Join(dir, "server.crt"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.looked = time.Time{}
	if _, err := shake(t, config, client); err != nil || len(failures) != 1 {
		t.Fatalf("with a damaged file: %v; told %v", err, failures)
	}
	if err := s.Reload(); !block.Is(err, block.Invalid) {
		t.Fatalf("Reload of a damaged file: %v", err)
	}
	if _, err := shake(t, config, client); err != nil {
		t.Fatalf("after Reload of a damaged file: %v", err)
	}
}

func TestKeysAreKept(t *testing.T) {
	dir := newAuthority(t)
	for _, name := range []string{"ca", "server", "worker-1"} {
		path := filepath.Join(dir, name+".key")
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	before, err := os.ReadFile(filepath.Join(dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Init(dir, "again", year); !block.Is(err, block.Exists) {
		t.Errorf("a second authority: %v", err)
	}
	if _, err := Issue(dir, Request{Name: "worker-1", Valid: year}); !block.Is(err, block.Exists) {
		t.Errorf("a second worker-1: %v", err)
	}
	if after, err := os.ReadFile(filepath.Join(dir, "ca.key")); err != nil || string(after) != string(before) {
		t.Error("the authority's key has changed")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 6 {
		t.Errorf("files are left over: %v, %v", entries, err)
	}
	if err := os.Chmod(filepath.Join(dir, "server.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := NewSource(filesOf(dir, "server"), nil); !block.Is(err, block.Permission) {
		t.Errorf("a key that all may read: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	dir := newAuthority(t)
	for name, r := range map[string]Request{
		"no name": {Valid: year}, "a path": {Name: "../x", Valid: year}, "the authority": {Name: "ca", Valid: year},
		"too long": {Name: "x", Valid: 11 * year}, "too short": {Name: "x", Valid: time.Second}, "a port": {Name: "x", Hosts: []string{"h:1"}, Valid: year},
		"no URI": {Name: "x", URI: "::", Valid: year}, "hidden": {Name: ".x", Valid: year},
	} {
		if _, err := Issue(dir, r); !block.Is(err, block.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Issue(t.TempDir(), Request{Name: "x", Valid: year}); !block.Is(err, block.NotFound) {
		t.Errorf("without an authority: %v", err)
	}
	for _, f := range []Files{{Cert: "x"}, {CA: "x", Cert: "y"}, {Cert: "x", Key: "y"}} {
		if _, err := f.Client(); !block.Is(err, block.Invalid) {
			t.Errorf("%+v: %v", f, err)
		}
	}
	if pool, err := loadPool(filepath.Join(dir, "server.key")); err == nil {
		t.Errorf("a key is taken for an authority: %v", pool != (*x509.CertPool)(nil))
	}
}
