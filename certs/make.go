package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/slackerd/slacker/block"
)

// Names of the authority's files, without the suffix.
const authorityName = "ca"

const (
	certSuffix, keySuffix = ".crt", ".key"
	certType, keyType     = "CERTIFICATE", "PRIVATE KEY"
	keyMode               = 0o600
	certMode              = 0o644
	// backdate allows for clocks that are behind.
	backdate = 5 * time.Minute
	// maxNameBytes is the bound of X.509 on a common name.
	maxNameBytes = 64
)

// Request says what to certify.
type Request struct {
	// Name is the common name, and the name of the files.
	Name string
	// Hosts are the DNS names and IP addresses of a server; none makes a client
	// certificate.
	Hosts []string
	// URI is a second name of a client, such as spiffe://prod/worker/1.
	URI string
	// Valid is how long from now.
	Valid time.Duration
	// Renew replaces certificate and key that are there; without it they are
	// left alone with an error of kind Exists.
	Renew bool
}

// Issued says what was made.
type Issued struct {
	CertFile, KeyFile string
	Expires           time.Time
}

// Init makes an authority in dir, which is made if it is not there.
func Init(dir, name string, valid time.Duration) (Issued, error) {
	if err := checkRequest(&Request{Name: name, Valid: valid}); err != nil {
		return Issued{}, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Issued{}, fileError("make the directory", err)
	}
	template, err := newTemplate(name, valid)
	if err != nil {
		return Issued{}, err
	}
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	out, err := sign(dir, authorityName, template, nil, nil, false)
	if block.Is(err, block.Exists) {
		err = block.Errorf(block.Exists, "%w: want another directory", err)
	}
	return out, err
}

// Issue makes a certificate of the authority in dir, beside it.
func Issue(dir string, r Request) (Issued, error) {
	if err := checkRequest(&r); err != nil {
		return Issued{}, err
	}
	if r.Name == authorityName {
		return Issued{}, block.Errorf(block.Invalid, "certificate name %q is the authority's: want another", r.Name)
	}
	ca, key, err := loadAuthority(dir)
	if err != nil {
		return Issued{}, err
	}
	template, err := newTemplate(r.Name, r.Valid)
	if err != nil {
		return Issued{}, err
	}
	if template.NotAfter.After(ca.NotAfter) {
		return Issued{}, block.Errorf(block.Invalid, "certificate %s would expire %s, after its authority (%s): want a shorter time, or a new authority",
			r.Name, template.NotAfter.Format(time.DateOnly), ca.NotAfter.Format(time.DateOnly))
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(r.Hosts) > 0 {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	for _, h := range r.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	if r.URI != "" {
		u, err := url.Parse(r.URI)
		if err != nil || u.Scheme == "" || u.Host == "" {
			return Issued{}, block.Errorf(block.Invalid, "certificate URI %.100q: want SCHEME://NAME/PATH", r.URI)
		}
		template.URIs = []*url.URL{u}
	}
	out, err := sign(dir, r.Name, template, ca, key, r.Renew)
	if block.Is(err, block.Exists) {
		err = block.Errorf(block.Exists, "%w: want another name, or --renew to replace it", err)
	}
	return out, err
}

func checkRequest(r *Request) error {
	bad := r.Name == "" || len(r.Name) > maxNameBytes || strings.HasPrefix(r.Name, ".")
	for _, c := range r.Name {
		bad = bad || c <= ' ' || c > '~' || c == '/' || c == '\\'
	}
	if bad {
		return block.Errorf(block.Invalid, "certificate name %.80q: want 1 to %d printable characters without blanks and '/'", r.Name, maxNameBytes)
	}
	for _, h := range r.Hosts {
		if h == "" || len(h) > 253 || strings.ContainsAny(h, " /:@") && net.ParseIP(h) == nil {
			return block.Errorf(block.Invalid, "host %.100q: want a DNS name or an IP address, without a port", h)
		}
	}
	if r.Valid < time.Minute {
		return block.Errorf(block.Invalid, "validity of %v: want at least 1m", r.Valid)
	}
	return nil
}

func newTemplate(name string, valid time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, block.Errorf(block.Internal, "make a serial number: %w", err)
	}
	now := time.Now()
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-backdate), NotAfter: now.Add(valid)}, nil
}

// sign makes a key, signs its certificate (by itself without a parent) and
// writes both. The key goes first: a certificate without its key is found out
// at once, a key without a certificate is of no use to anybody.
func sign(dir, name string, template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey, replace bool) (Issued, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Issued{}, block.Errorf(block.Internal, "make a key: %w", err)
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return Issued{}, block.Errorf(block.Internal, "sign the certificate of %s: %w", name, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Issued{}, block.Errorf(block.Internal, "encode the key of %s: %w", name, err)
	}
	out := Issued{CertFile: filepath.Join(dir, name+certSuffix), KeyFile: filepath.Join(dir, name+keySuffix), Expires: template.NotAfter}
	for _, f := range []struct {
		path, typ string
		der       []byte
		mode      fs.FileMode
	}{{out.KeyFile, keyType, keyDER, keyMode}, {out.CertFile, certType, der, certMode}} {
		if err := writeFile(f.path, pem.EncodeToMemory(&pem.Block{Type: f.typ, Bytes: f.der}), f.mode, replace); err != nil {
			return Issued{}, err
		}
	}
	return out, nil
}

// writeFile makes a file appear whole (K2). Without replace one that is there
// is left alone.
func writeFile(path string, data []byte, mode fs.FileMode, replace bool) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return fileError("write "+path, err)
	}
	defer func() {
		if rerr := os.Remove(f.Name()); err == nil && rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = fileError("write "+path, rerr)
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return fileError("write "+path, err)
	}
	if replace {
		err = os.Rename(f.Name(), path)
	} else {
		err = os.Link(f.Name(), path) // fails when there is one
	}
	if errors.Is(err, fs.ErrExist) {
		return block.Errorf(block.Exists, "%s exists already", path)
	}
	if err != nil {
		return fileError("write "+path, err)
	}
	return nil
}

func loadAuthority(dir string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	pair, err := loadPair(filepath.Join(dir, authorityName+certSuffix), filepath.Join(dir, authorityName+keySuffix))
	if err != nil {
		if block.Is(err, block.NotFound) {
			err = block.Errorf(block.NotFound, "no certificate authority in %s: make one with slackerctl certs init: %w", dir, err)
		}
		return nil, nil, err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, nil, block.Errorf(block.Invalid, "authority in %s: want a certificate authority with an ECDSA key", dir)
	}
	return pair.Leaf, key, nil
}

func fileError(doing string, err error) error {
	return block.Errorf(block.KindOfFile(err), "%s: %w", doing, err)
}
