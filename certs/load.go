package certs

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"os"
	"sync"
	"time"

	"github.com/slackerd/slacker/block"
)

const (
	// maxFileBytes bounds a file of certificates or a key.
	maxFileBytes = 1 << 20
	// lookEvery is how often a Source looks whether its files have changed.
	lookEvery = time.Second
	// keyReaders are the mode bits that no key file may have.
	keyReaders = 0o037
)

// Files are what one side of a connection is given: the authority whose
// certificates it accepts, and its own certificate and key.
type Files struct{ CA, Cert, Key string }

// Empty reports that no TLS is wanted.
func (f Files) Empty() bool { return f == Files{} }

// check refuses half a set. A client may have a CA alone; then it is anonymous.
func (f Files) check(server bool) error {
	if f.CA == "" || (f.Cert == "") != (f.Key == "") || server && f.Cert == "" {
		return block.Errorf(block.Invalid, "TLS files: authority %q, certificate %q, key %q: want all three", f.CA, f.Cert, f.Key)
	}
	return nil
}

func (f Files) names() []string { return []string{f.CA, f.Cert, f.Key} }

func readFile(path string, private bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fileError("TLS file", err)
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return nil, fileError("TLS file", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFileBytes {
		return nil, block.Errorf(block.Invalid, "TLS file %s: want a regular file of at most %d bytes, got %s of %d", path, maxFileBytes, info.Mode().Type(), info.Size())
	}
	if private && info.Mode().Perm()&keyReaders != 0 {
		return nil, block.Errorf(block.Permission, "key file %s has mode %04o: want 0600, or 0640 for a group", path, info.Mode().Perm())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes))
	if err != nil {
		return nil, fileError("TLS file", err)
	}
	return data, nil
}

func loadPair(certFile, keyFile string) (*tls.Certificate, error) {
	certPEM, err := readFile(certFile, false)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readFile(keyFile, true)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, block.Errorf(block.Invalid, "certificate %s with key %s: %w", certFile, keyFile, err)
	}
	return &pair, nil
}

func loadPool(path string) (*x509.CertPool, error) {
	data, err := readFile(path, false)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, block.Errorf(block.Invalid, "TLS file %s: want certificates in PEM, found none", path)
	}
	return pool, nil
}

// base is what both sides share (K1).
func base() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, NextProtos: []string{"h2", "http/1.1"}}
}

// Client reads the files and returns the configuration of a client. It is to
// be called for each connection, so that renewed files count.
func (f Files) Client() (*tls.Config, error) {
	if err := f.check(false); err != nil {
		return nil, err
	}
	c := base()
	c.NextProtos = nil
	var err error
	if c.RootCAs, err = loadPool(f.CA); err != nil {
		return nil, err
	}
	if f.Cert != "" {
		pair, err := loadPair(f.Cert, f.Key)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{*pair}
	}
	return c, nil
}

// Source is the files of a server, read anew when they change. Its methods may
// be called concurrently.
type Source struct {
	files  Files
	failed func(error)

	mu     sync.Mutex
	config *tls.Config
	looked time.Time
	stamps [3]stamp
}

// stamp tells a changed file from one that is as it was.
type stamp struct {
	modified time.Time
	bytes    int64
	inode    any
}

// NewSource reads the files of a server. failed is told, from any goroutine,
// when changed files cannot be used.
func NewSource(files Files, failed func(error)) (*Source, error) {
	if err := files.check(true); err != nil {
		return nil, err
	}
	s := &Source{files: files, failed: failed}
	return s, s.Reload()
}

// Reload reads the files now. After an error what was loaded before stays in
// force (K3).
func (s *Source) Reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looked, s.stamps = time.Now(), s.look()
	return s.load()
}

// load is called with s.mu held.
func (s *Source) load() error {
	c := base()
	pool, err := loadPool(s.files.CA)
	if err != nil {
		return err
	}
	pair, err := loadPair(s.files.Cert, s.files.Key)
	if err != nil {
		return err
	}
	c.ClientAuth, c.ClientCAs, c.Certificates = tls.RequireAndVerifyClientCert, pool, []tls.Certificate{*pair}
	s.config = c
	return nil
}

// look returns what the files are like; one that is not there is zero.
func (s *Source) look() (stamps [3]stamp) {
	for i, name := range s.files.names() {
		if info, err := os.Stat(name); err == nil {
			stamps[i] = stamp{info.ModTime(), info.Size(), inode(info)}
		}
	}
	return stamps
}

// current returns the configuration of today.
func (s *Source) current() *tls.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.looked) >= lookEvery {
		s.looked = now
		if stamps := s.look(); stamps != s.stamps {
			s.stamps = stamps
			if err := s.load(); err != nil {
				s.failed(err)
			}
		}
	}
	return s.config
}

// Server returns a configuration that follows the files.
func (s *Source) Server() *tls.Config {
	c := base()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.current(), nil }
	return c
}

// Expires returns when the server's certificate expires.
func (s *Source) Expires() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config.Certificates[0].Leaf.NotAfter
}
