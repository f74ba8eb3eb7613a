package access

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slackerd/slacker/block"
)

func cert(cn string, uris ...string) Identity {
	c := &x509.Certificate{Subject: pkix.Name{CommonName: cn}}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			panic(err)
		}
		c.URIs = append(c.URIs, u)
	}
	return OfCertificate(c)
}

func TestPolicy(t *testing.T) {
	p, err := ParsePolicy([]string{
		"cn=worker-* read+clone images/**",
		"cn=worker-1 admin scratch/*",
		"uri=spiffe://prod/** write db",
		"uid=0 admin **",
		"gid=998 read **",
		"anonymous read public/?",
	})
	if err != nil {
		t.Fatal(err)
	}
	w1, db := cert("worker-1"), cert("", "spiffe://prod/ns/a")
	for _, c := range []struct {
		id     Identity
		want   Permission
		target string
		ok     bool
	}{
		{w1, Read, "images/a/b", true}, {w1, Clone, "images/a@v1", true}, {w1, Write, "images/a", false}, {w1, Read, "images", false},
		{w1, Admin, "scratch/x", true}, {w1, Write, "scratch/x", true}, {w1, Read, "scratch/x/y", false}, {w1, Admin, "", false},
		{cert("worker-1/x"), Read, "images/a", false}, {cert(""), Read, "images/a", false}, {cert("xworker-1"), Read, "images/a", false},
		{db, Write, "db", true}, {db, Read, "db", true}, {db, Clone, "db", false}, {db, Admin, "db", false}, {db, Read, "dbx", false},
		{OfUser(0, 5), Admin, "", true}, {OfUser(0, 5), Admin, "any/thing", true}, {OfUser(7, 998), Read, "x", true}, {OfUser(7, 998), Write, "x", false},
		{OfUser(7, 7), Read, "x", false}, {Identity{}, Read, "public/a", true}, {Identity{}, Read, "public/ab", false},
		{Identity{}, Read, "x", false}, {w1, Read, "public/a", false},
	} {
		err := p.Check(c.id, c.want, c.target)
		if (err == nil) != c.ok {
			t.Errorf("%s, %s, %q: %v, want allowed %v", c.id, c.want, c.target, err, c.ok)
		}
		if err == nil {
			continue
		}
		volume, _, _ := strings.Cut(c.target, "@")
		if !block.Is(err, block.Permission) || !strings.Contains(err.Error(), c.id.String()) ||
			!strings.Contains(err.Error(), c.want.String()) || !strings.Contains(err.Error(), volume) {
			t.Errorf("the refusal is %q", err)
		}
	}
	if p.CheckKnown(w1) != nil || p.CheckKnown(cert("other")) == nil {
		t.Error("CheckKnown is wrong")
	}
	var none *Policy
	if none.Check(Identity{}, Admin, "") != nil || none.CheckKnown(Identity{}) != nil {
		t.Error("no policy refuses something")
	}
}

func TestPermissionNames(t *testing.T) {
	for p, want := range map[Permission]string{0: "nothing", Read: "read", Write: "write", Clone: "clone", Admin: "admin", Write | Clone: "write+clone"} {
		if p.String() != want {
			t.Errorf("%d is %q, want %q", p, p, want)
		}
	}
}

func TestBadRules(t *testing.T) {
	for _, text := range []string{"", "cn=x read", "cn=x read a b", "cn= read a", "x read a", "cn=x rite a", "cn=x read+ a", "uid=-1 read a",
		"uid=x read a", "gid=4294967296 read a", "any  ** ", strings.Repeat("x", maxRuleBytes) + " read **"} {
		if _, err := ParseRule(text); !block.Is(err, block.Invalid) {
			t.Errorf("rule %.40q: %v", text, err)
		}
	}
}

// TestUnverifiedCertificate holds A4.
func TestUnverifiedCertificate(t *testing.T) {
	c := &x509.Certificate{Subject: pkix.Name{CommonName: "x"}}
	if id := OfTLS(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}); !id.Anonymous() {
		t.Errorf("a certificate without a chain gives %s", id)
	}
	if id := OfTLS(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}, VerifiedChains: [][]*x509.Certificate{{c}}}); id.cn != "x" {
		t.Errorf("a verified one gives %s", id)
	}
}

func TestPeerOfUnixSocket(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if got, want := Of(s).String(), OfUser(uint32(os.Getuid()), uint32(os.Getgid())).String(); got != want {
		t.Errorf("peer is %s, want %s", got, want)
	}
}

func FuzzRule(f *testing.F) {
	f.Add("cn=worker-* read+clone images/**", "images/a")
	f.Add("uid=0 admin **", "")
	f.Add("uri=\xff*[ write ?*\\E", "a")
	f.Fuzz(func(t *testing.T, text, volume string) {
		r, err := ParseRule(text)
		if err != nil {
			return
		}
		p := &Policy{[]Rule{r}}
		if p.May(Identity{}, Read, volume) && !strings.HasPrefix(strings.TrimSpace(text), "an") {
			t.Errorf("rule %q lets anonymous in", text)
		}
	})
}
