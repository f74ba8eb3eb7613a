package rig

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/certs"
)

// pki is a directory with an authority and the certificates of the server, seen
// from host and guest, and of the worker.
type pki struct{ dir string }

func newPKI(t *testing.T) *pki {
	t.Helper()
	p := &pki{t.TempDir()}
	if _, err := certs.Init(p.dir, "rig", 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	for _, r := range []certs.Request{
		{Name: "server", Hosts: []string{"10.0.2.2", "127.0.0.1"}, Valid: time.Hour},
		{Name: "worker", Valid: time.Hour},
	} {
		if _, err := certs.Issue(p.dir, r); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (p *pki) files(name string) certs.Files {
	return certs.Files{CA: filepath.Join(p.dir, "ca.crt"), Cert: filepath.Join(p.dir, name+".crt"), Key: filepath.Join(p.dir, name+".key")}
}

// serverFlags are those of a server that takes no plaintext; none without a pki.
func (p *pki) serverFlags() []string {
	if p == nil {
		return nil
	}
	f := p.files("server")
	return []string{"--tls-nbd", "require", "--tls-api", "require", "--tls-ca", f.CA, "--tls-cert", f.Cert, "--tls-key", f.Key}
}

func (p *pki) client(server string) (slackerv1connect.AdminServiceClient, error) {
	if p == nil {
		return api.NewClient(server)
	}
	return api.NewTLSClient(server, p.files("worker").Client)
}

// guestFiles are what the worker in the guest needs; none without a pki.
func (p *pki) guestFiles() []string {
	if p == nil {
		return nil
	}
	f := p.files("worker")
	return []string{f.CA + ":/tls/ca.crt", f.Cert + ":/tls/worker.crt", f.Key + ":/tls/worker.key"}
}

// The kernel's NBD client over TLS, by the worker's relay: plaintext is refused,
// and a killed server is a pause and no error, as without TLS.
func TestRestartOverTLS(t *testing.T) {
	p := newPKI(t)
	h := newTLSHost(t, p)
	g := bootWith(t, append(p.guestFiles(), "guest/restart.sh:/restart.sh"), "tls", strconv.Itoa(h.api), "15", strconv.Itoa(h.nbd))
	g.await("RIG-WRITING", bootLimit)
	time.Sleep(3 * time.Second) // let it write
	h.kill()
	time.Sleep(2 * time.Second) // the outage
	h.start()
	g.pass()
	if !strings.Contains(h.text(), `certificate cn=`) {
		t.Error("no connection had the worker's certificate: this test tests nothing")
	}
	if strings.Contains(h.text(), "PRIVATE KEY") {
		t.Error("the server's log has a key")
	}
}

// A write that the server holds, and a forced detach, where the worker's monitor is
// the kernel's server.
func TestStaleWriteOverTLS(t *testing.T) {
	if !*soakAll {
		t.Skip("half a minute: make rig-soak")
	}
	staleWrite(t, newPKI(t))
}

func TestForcedDetachOverTLS(t *testing.T) { forcedDetach(t, newPKI(t)) }
