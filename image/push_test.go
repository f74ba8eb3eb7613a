package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
)

// Publish notes what was asked for.
func (s *server) Publish(_ context.Context, r *connect.Request[slackerv1.PublishRequest]) (*connect.Response[slackerv1.Snapshot], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Msg.GetVolume() == "none" {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no such volume"))
	}
	s.published = append(s.published, r.Msg)
	return connect.NewResponse(&slackerv1.Snapshot{}), nil
}

// TestPush pushes a volume twice: each is a snapshot under the id of the image's
// chain as others count it, on the base's layers and configuration.
func TestPush(t *testing.T) {
	s := startServer(t)
	web := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer web.Close()
	host := registryPrefix + strings.TrimPrefix(web.URL, "http://")
	ref, err := referenceOf(host+"/base:1", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, imageOf(t, arch(), tarOf(t, file("a", "1")), tarOf(t, file("b", "2")))); err != nil {
		t.Fatal(err)
	}
	chains := map[string]bool{}
	for _, tag := range []string{"1", "2"} {
		dest := host + "/app:" + tag
		res, err := Push(context.Background(), PushOptions{Volume: "work/x", Base: host + "/base:1", Dest: dest, Prefix: "containers", Client: s.client})
		if err != nil {
			t.Fatal(err)
		}
		img, err := openBase(context.Background(), dest, false)
		if err != nil {
			t.Fatal(err)
		}
		digestOf, err1 := img.Digest()
		config, err2 := img.ConfigFile()
		manifest, err3 := img.Manifest()
		if err := errors.Join(err1, err2, err3); err != nil || res.Image != digestOf.String() {
			t.Fatalf("image %s, result %+v (%v)", digestOf, res, err)
		}
		last := manifest.Layers[len(manifest.Layers)-1]
		if len(manifest.Layers) != 3 || last.MediaType != snapshotLayer || last.Size > 4096 {
			t.Errorf("layers %+v, want the base's two and a small one of the type %s", manifest.Layers, snapshotLayer)
		}
		want := "containers/chains/" + strings.Replace(chainOf(config.RootFS.DiffIDs), ":", "-", 1)
		got := s.published[len(s.published)-1]
		if got.GetVolume() != "work/x" || got.GetNewVolume() != want || got.GetNewSnapshot() != "layer" {
			t.Errorf("published %v, want work/x as %s@layer", got, want)
		}
		chains[want] = true
	}
	if len(chains) != 2 {
		t.Errorf("two pushes have the chains %v, want two", chains)
	}
	for _, o := range []PushOptions{
		{Volume: "work/x", Base: "base", Dest: host + "/app:1"}, {Volume: "work/x", Base: host + "/base:1", Dest: "app"},
		{Volume: "a@b", Base: host + "/base:1", Dest: host + "/app:1"},
	} {
		o.Client = s.client
		if _, err := Push(context.Background(), o); !block.Is(err, block.Invalid) {
			t.Errorf("%+v: want it refused as invalid, got %v", o, err)
		}
	}
}

// TestManifestLast: the manifest is there when all that it names is, and without
// the snapshot it never is. In the base's own repository nobody asks for the base's
// layers.
func TestManifestLast(t *testing.T) {
	s := startServer(t)
	store := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var mu sync.Mutex
	var seen []string
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.Method+" "+r.URL.Path)
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") {
			s.mu.Lock()
			seen = append(seen, fmt.Sprint(len(s.published), " published"))
			s.mu.Unlock()
		}
		mu.Unlock()
		store.ServeHTTP(w, r)
	}))
	defer web.Close()
	host := registryPrefix + strings.TrimPrefix(web.URL, "http://")
	ref, err := referenceOf(host+"/app:1", false)
	if err != nil {
		t.Fatal(err)
	}
	base := imageOf(t, arch(), tarOf(t, file("a", "1")), tarOf(t, file("b", "2")))
	if err := remote.Write(ref, base); err != nil {
		t.Fatal(err)
	}
	since := func() []string { // the last
		mu.Lock()
		defer mu.Unlock()
		defer func() { seen = nil }()
		return seen
	}
	since()
	for _, dest := range []string{"/app:2", "/other:1"} {
		s.published = nil
		o := PushOptions{Volume: "none", Base: host + "/app:1", Dest: host + dest, Prefix: "containers", Client: s.client}
		if _, err := Push(context.Background(), o); !block.Is(err, block.NotFound) {
			t.Errorf("%s of no volume: want it not found, got %v", dest, err)
		}
		if seen := since(); slices.ContainsFunc(seen, isPutManifest) {
			t.Errorf("%s of no volume: %q", dest, seen)
		}
		o.Volume = "work/x"
		if _, err := Push(context.Background(), o); err != nil {
			t.Fatal(err)
		}
		seen := since()
		n := len(seen)
		if n < 2 || !isPutManifest(seen[n-2]) || seen[n-1] != "1 published" {
			t.Errorf("%s: want the manifest last, after the snapshot, got %q", dest, seen)
		}
		layers, err := base.Layers()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range layers {
			id, err := l.Digest()
			if err != nil {
				t.Fatal(err)
			}
			asked := slices.ContainsFunc(seen, func(r string) bool { return strings.HasSuffix(r, id.String()) })
			if own := dest == "/app:2"; asked == own {
				t.Errorf("%s: asked for a layer of the base: %v", dest, asked)
			}
		}
	}
}

func isPutManifest(request string) bool {
	return strings.HasPrefix(request, http.MethodPut) && strings.Contains(request, "/manifests/")
}

// chainOf is the chain id as the specification's own code has it.
func chainOf(ids []v1.Hash) string {
	var all []digest.Digest
	for _, id := range ids {
		all = append(all, digest.Digest(id.String()))
	}
	return identity.ChainID(all).String()
}
