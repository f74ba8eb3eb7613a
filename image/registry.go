package image

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slackerd/slacker/block"
)

// referenceOf parses the name of an image in a registry.
func referenceOf(ref string, plainHTTP bool) (name.Reference, error) {
	opts := []name.Option{name.WithDefaultTag("latest")}
	if plainHTTP {
		opts = append(opts, name.Insecure)
	}
	r, err := name.ParseReference(strings.TrimPrefix(ref, registryPrefix), opts...)
	if err != nil {
		return nil, block.Errorf(block.Invalid, "image %q: %w", ref, err)
	}
	return r, nil
}

// registryOptions say how to speak to the registry of an image.
func registryOptions(ctx context.Context, ref name.Reference, plainHTTP bool) []remote.Option {
	opts := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	if plainHTTP {
		opts = append(opts, remote.WithTransport(plain{ref.Context().RegistryStr(), remote.DefaultTransport}))
	}
	return opts
}

// plain is for a registry that is spoken to without TLS: the library would try that
// first. Who gives out tokens for it may have TLS.
type plain struct {
	registry string // HOST or HOST:PORT
	next     http.RoundTripper
}

func (p plain) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "https" && r.URL.Host == p.registry {
		return nil, errors.New("it is spoken to without TLS")
	}
	return p.next.RoundTrip(r)
}
