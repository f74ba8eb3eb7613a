package image

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// helloCounter counts connections that begin as TLS does.
type helloCounter struct {
	net.Listener
	hellos atomic.Int64
}

func (l *helloCounter) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &firstByte{Conn: c, counter: l}, err
}

type firstByte struct {
	net.Conn
	counter *helloCounter
	read    bool
}

func (c *firstByte) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.read && p[0] == 22 {
		c.counter.hellos.Add(1)
	}
	c.read = c.read || n > 0
	return n, err
}

// TestPlainHTTP: a registry without TLS is not tried with it, and one that has it is
// not reached without.
func TestPlainHTTP(t *testing.T) {
	quiet := log.New(io.Discard, "", 0)
	web := httptest.NewUnstartedServer(registry.New(registry.Logger(quiet)))
	web.Config.ErrorLog = quiet
	l := &helloCounter{Listener: web.Listener}
	web.Listener = l
	web.Start()
	defer web.Close()
	ref, err := referenceOf(registryPrefix+strings.TrimPrefix(web.URL, "http://")+"/a:1", true)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, imageOf(t, arch(), tarOf(t, file("a", "1"))), registryOptions(t.Context(), ref, true)...); err != nil {
		t.Fatal(err)
	}
	if n := l.hellos.Load(); n > 0 {
		t.Errorf("%d connections began with TLS, want none", n)
	}
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = quiet
	secure.StartTLS()
	defer secure.Close()
	if _, err := openBase(context.Background(), registryPrefix+strings.TrimPrefix(secure.URL, "https://")+"/a:1", true); err == nil {
		t.Error("a registry with TLS was read without")
	}
}
