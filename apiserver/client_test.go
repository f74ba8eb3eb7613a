package apiserver_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
)

func httpClient(t *testing.T) *http.Client {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func TestClientAddresses(t *testing.T) {
	store := &fakeStore{}
	base := serve(t, store, options())
	for _, addr := range []string{base, base + "/", strings.Replace(base, "http://", "tcp://", 1), serveUnix(t, store)} {
		if _, err := dial(t, addr).GetStatus(t.Context(), connect.NewRequest(&slackerv1.GetStatusRequest{})); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
	for _, addr := range []string{"", "localhost", "127.0.0.1:10808", "http://", "http://host", "http://host:1/path", "http://u@host:1",
		"https://host:1", "unix://relative", "unix:///", "unix:///dir/", "tcp://:1", "http://host:1?x=y", "http://%zz", "nbd://host:1"} {
		_, err := api.NewClient(addr)
		if !block.Is(err, block.Invalid) || !strings.Contains(err.Error(), "http://HOST:PORT") {
			t.Errorf("%q: %v, want it refused with what is wanted", addr, err)
		}
	}
}

func TestServerNotReachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addrs := []string{"http://" + l.Addr().String(), "unix://" + filepath.Join(t.TempDir(), "none.sock")}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		c := dial(t, addr)
		_, err := c.GetStatus(t.Context(), connect.NewRequest(&slackerv1.GetStatusRequest{}))
		unreachable(t, addr, err)
		stream, err := c.Check(t.Context(), connect.NewRequest(&slackerv1.CheckRequest{}))
		if err == nil {
			stream.Receive()
			err = stream.Err()
			_ = stream.Close()
		}
		unreachable(t, addr, err)
	}
}

func unreachable(t *testing.T, addr string, err error) {
	t.Helper()
	got := api.FromConnect(err)
	if !block.Is(got, block.Unavailable) || !strings.Contains(got.Error(), addr) || !strings.Contains(got.Error(), "slackerd serve") {
		t.Errorf("%s: %v", addr, got)
	}
}

// Another kind of server gives an error of some kind, and no panic.
func TestAnotherServer(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(srv.Close)
	_, err := dial(t, srv.URL).GetStatus(t.Context(), connect.NewRequest(&slackerv1.GetStatusRequest{}))
	if got := api.FromConnect(err); !block.Is(got, block.Unsupported) {
		t.Errorf("a server without the service: %v", got)
	}
}
