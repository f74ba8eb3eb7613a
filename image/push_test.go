package image

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"strings"
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

// chainOf is the chain id as the specification's own code has it.
func chainOf(ids []v1.Hash) string {
	var all []digest.Digest
	for _, id := range ids {
		all = append(all, digest.Digest(id.String()))
	}
	return identity.ChainID(all).String()
}
