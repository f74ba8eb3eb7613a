package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// RegistryOptions say how to start a registry.
type RegistryOptions struct {
	Programs Programs
	Dir      string    // its socket, configuration and log
	Storage  string    // where images are kept; empty is DIR/storage
	Netns    Namespace // where its proxy listens
	Listen   string    // address of the proxy; empty is an ephemeral port on loopback
}

// Registry is a running docker-registry behind a proxy that counts.
type Registry struct {
	*Traffic
	process *Process
	storage string
}

const registryConfig = `version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %q}
  cache: {blobdescriptor: inmemory}
  delete: {enabled: true}
  maintenance: {uploadpurging: {enabled: false}}
http: {net: unix, addr: %q, relativeurls: true, secret: of-no-use}
`

// StartRegistry starts a registry. It speaks HTTP without TLS.
func StartRegistry(ctx context.Context, o RegistryOptions) (*Registry, error) {
	program, err := o.Programs.Path("debian/docker-registry")
	if err != nil {
		return nil, err
	}
	if o.Storage == "" {
		o.Storage = filepath.Join(o.Dir, "storage")
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	socket, config := filepath.Join(o.Dir, "sock"), filepath.Join(o.Dir, "config.yml")
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	if err := os.WriteFile(config, fmt.Appendf(nil, registryConfig, o.Storage, socket), 0o644); err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	p, err := StartProcess(ctx, Command{
		Name: "registry", Args: []string{program, "serve", config}, Log: filepath.Join(o.Dir, "log"),
		Ready: func(ctx context.Context) error { return answers(ctx, client, "http://registry/v2/") },
	})
	if err != nil {
		return nil, err
	}
	t, err := countTraffic(o.Netns, o.Listen, dial)
	if err != nil {
		p.Stop()
		return nil, fmt.Errorf("start registry: %w", err)
	}
	return &Registry{Traffic: t, process: p, storage: o.Storage}, nil
}

// answers tells whether a URL is served.
func answers(ctx context.Context, c *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, res.Status)
	}
	return nil
}

// Process is the registry's process.
func (r *Registry) Process() *Process { return r.process }

// Blob is the file that a blob is kept in, if the registry has it.
func (r *Registry) Blob(digest string) string {
	algorithm, hex, _ := strings.Cut(digest, ":")
	return filepath.Join(r.storage, "docker/registry/v2/blobs", algorithm, hex[:min(2, len(hex))], hex, "data")
}

// SameFile makes a file that has the content of another a hard link to it, so that
// it is kept once. Neither may be changed in place afterwards. On different file
// systems both stay as they are.
func SameFile(kept, copied string) error {
	a, err := os.Stat(kept)
	if err != nil {
		return err
	}
	b, err := os.Stat(copied)
	if err != nil {
		return err
	}
	if os.SameFile(a, b) {
		return nil
	}
	if a.Size() != b.Size() {
		return fmt.Errorf("keep %s once: want %d bytes as in %s, got %d", copied, a.Size(), kept, b.Size())
	}
	if err := os.Link(kept, copied+".link"); errors.Is(err, syscall.EXDEV) {
		return nil
	} else if err != nil {
		return err
	}
	return os.Rename(copied+".link", copied)
}

// Stop stops the proxy and the registry. What was stored stays.
func (r *Registry) Stop() {
	if r == nil {
		return
	}
	r.close()
	r.process.Stop()
}
