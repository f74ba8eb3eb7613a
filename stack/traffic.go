package stack

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
)

// Traffic is a reverse proxy that counts bodies.
type Traffic struct {
	addr   string
	server *http.Server
	served sync.WaitGroup

	sent, received, requests atomic.Int64

	mu    sync.Mutex
	paths map[string]int64 // bytes sent, by path
}

// Counts are what went over a registry's proxy.
type Counts struct {
	Sent     int64 // bytes of bodies to clients
	Received int64 // bytes of bodies from clients
	Requests int64
}

// Sub is what was added since an earlier count.
func (c Counts) Sub(before Counts) Counts {
	return Counts{c.Sent - before.Sent, c.Received - before.Received, c.Requests - before.Requests}
}

// PathBytes is how much was sent for one path.
type PathBytes struct {
	Path  string
	Bytes int64
}

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

func countTraffic(ns Namespace, listen string, dial dialer) (*Traffic, error) {
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	l, err := ns.Listen("tcp", listen)
	if err != nil {
		return nil, err
	}
	t := &Traffic{addr: l.Addr().String(), paths: map[string]int64{}}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "registry"})
			r.Out.Host = r.In.Host
		},
		Transport:  &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 64, DisableCompression: true},
		BufferPool: new(buffers),
		ErrorLog:   log.New(io.Discard, "", 0), // clients that go away in the middle
	}
	t.server = &http.Server{ErrorLog: proxy.ErrorLog, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.requests.Add(1)
		r.Body = &countedBody{r.Body, &t.received}
		cw := &countedWriter{ResponseWriter: w, total: &t.sent}
		defer func() { t.add(r.URL.Path, cw.n) }()
		proxy.ServeHTTP(cw, r)
	})}
	t.served.Go(func() { _ = t.server.Serve(l) }) // ends when it is closed
	return t, nil
}

// Addr is HOST:PORT of the proxy: what image references begin with.
func (t *Traffic) Addr() string { return t.addr }

// Counts is what was counted until now. A response counts while it is sent.
func (t *Traffic) Counts() Counts {
	return Counts{t.sent.Load(), t.received.Load(), t.requests.Load()}
}

// ByPath is what was sent by path since the start, largest first. A response
// counts when it has ended.
func (t *Traffic) ByPath() []PathBytes {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []PathBytes
	for p, n := range t.paths {
		all = append(all, PathBytes{p, n})
	}
	sort.Slice(all, func(i, j int) bool {
		if all[i].Bytes != all[j].Bytes {
			return all[i].Bytes > all[j].Bytes
		}
		return strings.Compare(all[i].Path, all[j].Path) < 0
	})
	return all
}

func (t *Traffic) add(path string, n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paths[path] += n
}

func (t *Traffic) close() {
	_ = t.server.Close()
	t.served.Wait()
}

type countedBody struct {
	io.ReadCloser
	total *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.total.Add(int64(n))
	return n, err
}

type countedWriter struct {
	http.ResponseWriter
	n     int64
	total *atomic.Int64
}

func (w *countedWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.n += int64(n)
	w.total.Add(int64(n))
	return n, err
}

// Unwrap lets the proxy flush.
func (w *countedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// buffers is a pool of copy buffers for the proxy.
type buffers struct{ pool sync.Pool }

const copyBytes = 256 << 10

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, copyBytes)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
