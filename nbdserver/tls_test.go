package nbdserver_test

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/certs"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

const rTLSReqd = 1<<31 | 5

// pki makes an authority, a server and a client certificate in the files'
// names that libnbd and QEMU look for.
func pki(t *testing.T) (dir string, server *tls.Config, client certs.Files) {
	t.Helper()
	dir = t.TempDir()
	if _, err := certs.Init(dir, "authority", time.Hour); err != nil {
		t.Fatal(err)
	}
	for _, r := range []certs.Request{{Name: "server", Hosts: []string{"localhost", "127.0.0.1"}, Valid: time.Minute}, {Name: "client", Valid: time.Minute}} {
		if _, err := certs.Issue(dir, r); err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	s, err := certs.NewSource(certs.Files{CA: file("ca.crt"), Cert: file("server.crt"), Key: file("server.key")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return dir, s.Server(), certs.Files{CA: file("ca.crt"), Cert: file("client.crt"), Key: file("client.key")}
}

// startTLS serves backend over TCP on the loopback interface.
func startTLS(t *testing.T, backend nbdserver.Backend, mode nbdserver.TLSMode, config *tls.Config, change ...func(*nbdserver.Options)) (addr string) {
	t.Helper()
	r := start(t, backend, append(change, func(o *nbdserver.Options) { o.TLS, o.TLSMode = config, mode })...)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.Serve(context.Background(), l) }()
	t.Cleanup(func() { r.Close(); <-done })
	return l.Addr().String()
}

func helloTCP(t *testing.T, addr string) *peer {
	t.Helper()
	p := dialTCP(t, addr)
	p.write(u32(3))
	return p
}

// dialTCP connects and reads the greeting.
func dialTCP(t *testing.T, addr string) *peer {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	p := &peer{t, nc}
	p.read(18)
	return p
}

// upgrade does STARTTLS.
func (p *peer) upgrade(files certs.Files) *peer {
	p.t.Helper()
	p.option(oStartTLS, nil)
	p.wantReply(oStartTLS, rAck)
	c, err := files.Client()
	if err != nil {
		p.t.Fatal(err)
	}
	c.ServerName = "localhost"
	return &peer{p.t, tls.Client(p.nc, c)}
}

func TestForcedTLS(t *testing.T) {
	_, config, files := pki(t)
	addr := startTLS(t, newVol(), nbdserver.TLSForced, config)
	t.Run("every option but STARTTLS and ABORT is refused", func(t *testing.T) {
		p := helloTCP(t, addr)
		for _, id := range []uint32{oList, oInfo, oGo, oStructured, oListMeta, oSetMeta, oExtended, 77} {
			p.option(id, infoData("vol"))
			p.wantReply(id, rTLSReqd)
		}
		p.option(oAbort, nil)
		p.wantReply(oAbort, rAck)
		p.wantClosed()
	})
	t.Run("EXPORT_NAME closes", func(t *testing.T) {
		p := helloTCP(t, addr)
		p.option(oExportName, []byte("vol"))
		p.wantClosed()
	})
	t.Run("with TLS all is served", func(t *testing.T) {
		p := helloTCP(t, addr).upgrade(files)
		p.option(oList, nil)
		p.wantReply(oList, rServer)
		p.wantReply(oList, rAck)
		p.option(oGo, infoData("vol"))
		p.wantReply(oGo, rInfo)
		p.wantReply(oGo, rInfo)
		p.wantReply(oGo, rAck)
		p.wantAlive(false)
	})
	t.Run("a second STARTTLS is invalid", func(t *testing.T) {
		p := helloTCP(t, addr).upgrade(files)
		p.option(oStartTLS, nil)
		p.wantReply(oStartTLS, rInvalid)
	})
	t.Run("STARTTLS with data is invalid", func(t *testing.T) {
		p := helloTCP(t, addr)
		p.option(oStartTLS, []byte("x"))
		p.wantReply(oStartTLS, rInvalid)
		p.upgrade(files).option(oAbort, nil)
	})
	t.Run("no client certificate", func(t *testing.T) {
		p := helloTCP(t, addr).upgrade(certs.Files{CA: files.CA})
		_, _ = p.nc.Write(optionBytes(oList, nil)) // may be cut short
		p.wantClosed()
	})
	t.Run("plaintext behind STARTTLS is no option", func(t *testing.T) {
		p := helloTCP(t, addr)
		p.write(append(optionBytes(oStartTLS, nil), optionBytes(oGo, infoData("vol"))...))
		p.wantReply(oStartTLS, rAck)
		for b := make([]byte, 1024); ; {
			n, err := p.nc.Read(b)
			if strings.Contains(string(b[:n]), "\x00\x03\xe8\x89") {
				t.Fatal("the option was answered")
			}
			if err != nil {
				return
			}
		}
	})
}

// TestStartTLSForgets holds invariant 8.
func TestStartTLSForgets(t *testing.T) {
	_, config, files := pki(t)
	addr := startTLS(t, newVol(), nbdserver.TLSSelective, config)
	// upgraded negotiates in plaintext what must not count, and upgrades.
	upgraded := func(headers uint32) *peer {
		p := helloTCP(t, addr)
		p.option(headers, nil)
		p.wantReply(headers, rAck)
		p.option(oSetMeta, metaData("vol", "base:allocation"))
		p.wantReply(oSetMeta, rMeta)
		p.wantReply(oSetMeta, rAck)
		return p.upgrade(files)
	}
	for _, headers := range []uint32{oStructured, oExtended} {
		p := upgraded(headers)
		p.option(oSetMeta, metaData("vol", "base:allocation"))
		p.wantReply(oSetMeta, rInvalid)

		p = upgraded(headers)
		p.option(oStructured, nil)
		p.wantReply(oStructured, rAck)
		p.option(oGo, infoData("vol"))
		p.wantReply(oGo, rInfo)
		p.wantReply(oGo, rInfo)
		p.wantReply(oGo, rAck)
		q := &modePeer{p, structured}
		a := ask{cmd: cStatus, length: 4096} // the contexts are forgotten too
		q.send(a)
		q.wantResult(nbdserver.EINVAL, a)
	}
}

// TestTLSNeedsFixedNewstyle: to a client that does not claim to speak fixed
// newstyle nothing is said of TLS.
func TestTLSNeedsFixedNewstyle(t *testing.T) {
	_, config, _ := pki(t)
	t.Run("forced", func(t *testing.T) {
		p := dialTCP(t, startTLS(t, newVol(), nbdserver.TLSForced, config))
		p.write(u32(2))
		p.wantClosed()
	})
	t.Run("selective", func(t *testing.T) {
		p := dialTCP(t, startTLS(t, errBackend{block.Permission}, nbdserver.TLSSelective, config))
		p.write(u32(2))
		p.option(oStartTLS, nil)
		p.wantReply(oStartTLS, rPolicy)
		p.option(oGo, infoData("vol"))
		p.wantReply(oGo, rPolicy)
	})
}

func TestSelectiveTLS(t *testing.T) {
	_, config, _ := pki(t)
	p := helloTCP(t, startTLS(t, errBackend{block.Permission}, nbdserver.TLSSelective, config))
	p.option(oGo, infoData("vol"))
	p.wantReply(oGo, rTLSReqd)
	if _, err := nbdserver.New(newVol(), nbdserver.Options{Limits: nbdserver.DefaultLimits(), TLSMode: nbdserver.TLSForced}); err == nil {
		t.Error("a server is made that requires TLS and has none")
	}
}

// TestTLSHandshakeLimits: who is silent in the TLS handshake is closed, and
// who floods with handshakes is refused while an export goes on.
func TestTLSHandshakeLimits(t *testing.T) {
	_, config, files := pki(t)
	addr := startTLS(t, newVol(), nbdserver.TLSForced, config, func(o *nbdserver.Options) {
		o.Limits.Handshake, o.Limits.Negotiations, o.Limits.RemoteConnections = 2*time.Second, 2, 4
	})
	working := helloTCP(t, addr).upgrade(files)
	working.option(oGo, infoData("vol"))
	working.wantReply(oGo, rInfo)
	working.wantReply(oGo, rInfo)
	working.wantReply(oGo, rAck)
	working.wantAlive(false) // it negotiates no more
	silent := []*peer{helloTCP(t, addr), helloTCP(t, addr)}
	for _, p := range silent {
		p.option(oStartTLS, nil)
		p.wantReply(oStartTLS, rAck)
	}
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	(&peer{t, nc}).wantClosed()
	working.wantAlive(false)
	for _, p := range silent {
		p.wantClosed()
	}
}

func TestRemoteLimit(t *testing.T) {
	addr := startTLS(t, newVol(), nbdserver.TLSOff, nil, func(o *nbdserver.Options) { o.Limits.RemoteConnections = 1 })
	_ = helloTCP(t, addr)
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	(&peer{t, nc}).wantClosed()
}

// TestToolsOverTLS: libnbd and QEMU read the directory of certificates as
// certs writes it, but for names.
func TestToolsOverTLS(t *testing.T) {
	dir, config, files := pki(t)
	m := nbdtest.NewMemory("vol", nbdtest.DefaultInfo(16<<20))
	addr := startTLS(t, m, nbdserver.TLSForced, config)
	link(t, files, dir)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	uri := "nbds://localhost:" + port + "/vol?tls-certificates=" + dir
	if size := tool(t, "nbdinfo", "--size", uri); strings.TrimSpace(size) != "16777216" {
		t.Errorf("nbdinfo --size prints %q", size)
	}
	image := rawImage(t, 16<<20)
	tool(t, "nbdcopy", image, uri)
	tool(t, "qemu-img", "compare", "--object", "tls-creds-x509,id=t,endpoint=client,dir="+dir,
		"--image-opts", "driver=raw,file.driver=file,file.filename="+image,
		"driver=nbd,host=localhost,port="+port+",export=vol,tls-creds=t")
}

// link gives the files the names that libnbd and QEMU want.
func link(t *testing.T, files certs.Files, dir string) {
	t.Helper()
	for name, path := range map[string]string{"ca-cert.pem": files.CA, "client-cert.pem": files.Cert, "client-key.pem": files.Key} {
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}
