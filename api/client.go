package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
)

// DefaultAddr is where slackerd serves the API when nothing else is said.
const DefaultAddr = "http://127.0.0.1:10808"

// MaxResponseBytes bounds what a client accepts as one message: a list of some
// hundred thousand volumes.
const MaxResponseBytes = 64 << 20

const (
	dialTimeout = 5 * time.Second
	idleTimeout = 30 * time.Second
	// maxIdleConns is how many connections are kept for requests at once: each new
	// one takes round trips to reach its rate.
	maxIdleConns = 8
)

const addrWanted = "want http://HOST:PORT, https://HOST:PORT, tcp://HOST:PORT or unix:///PATH, for example " + DefaultAddr

// NewClient returns a client of the server at addr: http://HOST:PORT,
// tcp://HOST:PORT or unix:///PATH. It does not connect yet. Errors of its
// calls go through [FromConnect].
func NewClient(addr string) (slackerv1connect.AdminServiceClient, error) {
	return NewTLSClient(addr, nil)
}

// NewTLSClient is NewClient for a server with TLS at https://HOST:PORT or
// tcp://HOST:PORT; an address http:// is refused. A unix socket stays without.
// secure is asked for each connection; nil is NewClient.
func NewTLSClient(addr string, secure func() (*tls.Config, error)) (slackerv1connect.AdminServiceClient, error) {
	return newClient(addr, secure)
}

// NewBulkClient is NewTLSClient for messages that are compressed already.
func NewBulkClient(addr string, secure func() (*tls.Config, error)) (slackerv1connect.AdminServiceClient, error) {
	return newClient(addr, secure, connect.WithAcceptCompression("gzip", nil, nil))
}

func newClient(addr string, secure func() (*tls.Config, error), opts ...connect.ClientOption) (slackerv1connect.AdminServiceClient, error) {
	network, target, err := parseAddr(addr)
	if err != nil {
		return nil, err
	}
	switch https, plain := strings.HasPrefix(addr, "https:"), strings.HasPrefix(addr, "http:"); {
	case https && secure == nil:
		return nil, block.Errorf(block.Invalid, "server address %s: TLS needs certificates (--tls-ca, --tls-cert, --tls-key): %s", addr, addrWanted)
	case plain && secure != nil:
		return nil, block.Errorf(block.Invalid, "server address %s is without TLS although certificates are given: want https://HOST:PORT", addr)
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	base := "http://" + target
	transport := &http.Transport{IdleConnTimeout: idleTimeout, MaxIdleConnsPerHost: maxIdleConns, DialContext: dialer.DialContext}
	if network == "tcp" && secure != nil {
		base = "https://" + target
		transport.DialTLSContext = func(ctx context.Context, network, target string) (net.Conn, error) {
			return dialTLS(ctx, dialer, network, target, secure)
		}
	}
	if network == "unix" {
		base = "http://slackerd"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", target)
		}
	}
	httpClient := &http.Client{Transport: &reachable{addr: addr, next: transport}}
	return slackerv1connect.NewAdminServiceClient(httpClient, base, append(opts, connect.WithReadMaxBytes(MaxResponseBytes))...), nil
}

// dialTLS connects and shakes hands.
func dialTLS(ctx context.Context, dialer *net.Dialer, network, target string, secure func() (*tls.Config, error)) (net.Conn, error) {
	config, err := secure()
	if err != nil {
		return nil, err
	}
	d := tls.Dialer{NetDialer: dialer, Config: config}
	return d.DialContext(ctx, network, target)
}

// parseAddr splits an address into a network, tcp or unix, and what to dial.
func parseAddr(addr string) (network, target string, err error) {
	u, err := url.Parse(addr)
	if err != nil {
		return "", "", block.Errorf(block.Invalid, "server address %.200q: %s", addr, addrWanted)
	}
	bad := block.Errorf(block.Invalid, "server address %q: %s", addr, addrWanted)
	if u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", "", bad
	}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || !filepath.IsAbs(u.Path) || strings.HasSuffix(u.Path, "/") {
			return "", "", bad
		}
		return "unix", u.Path, nil
	case "http", "https", "tcp":
		if u.Hostname() == "" || u.Port() == "" || u.Path != "" && u.Path != "/" {
			return "", "", bad
		}
		return "tcp", u.Host, nil
	default:
		return "", "", bad
	}
}

// reachable gives the failure to reach the server a text that helps.
type reachable struct {
	addr string
	next http.RoundTripper
}

func (t *reachable) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(r)
	if err == nil && r.URL.Scheme == "http" && wantsTLS(resp) {
		return nil, &block.Error{Kind: block.Invalid, Text: "the server at " + t.addr +
			" takes TLS only: want https://HOST:PORT and certificates (--tls-ca, --tls-cert, --tls-key)"}
	}
	if err == nil || r.Context().Err() != nil {
		return resp, err
	}
	return nil, &block.Error{Kind: block.Unavailable, Err: err, Text: "no answer from a server at " + t.addr + " (" + err.Error() +
		"): want a running slackerd there; start it with slackerd serve, or name another address"}
}

// wantsTLS reports whether an answer is what Go's HTTP server gives to plaintext
// where it speaks TLS. The body of such an answer is closed, of others untouched.
func wantsTLS(resp *http.Response) bool {
	if resp.StatusCode != http.StatusBadRequest || resp.ContentLength >= 0 || resp.Header.Get("Content-Type") != "" {
		return false
	}
	const begin = "Client sent an HTTP request to an HTTPS server"
	got := make([]byte, len(begin))
	n, _ := io.ReadFull(resp.Body, got)
	if string(got[:n]) == begin {
		_ = resp.Body.Close()
		return true
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(got[:n]), resp.Body), resp.Body}
	return false
}
