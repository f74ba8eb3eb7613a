package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slackerd/slacker/stack"
)

// PushOptions says what to push and where to.
type PushOptions struct {
	// Dir is the cache; what is pushed has to be in it.
	Dir     string
	Recipes []*Recipe
	// Registry is HOST:PORT or HOST:PORT/PATH. Plain HTTP is tried for loopback
	// addresses only.
	Registry string
	// Blob is the file that the registry keeps a blob in, where that is on this
	// machine: what was pushed is then kept once, by hard links. It may be nil.
	Blob     func(digest string) string
	Progress io.Writer
}

// Push pushes built images. Layers that the registry has are not sent again.
func Push(ctx context.Context, o PushOptions) error {
	s, err := openStore(o.Dir, false)
	if err != nil {
		return err
	}
	for i, r := range o.Recipes {
		title := fmt.Sprintf("[%d/%d] %s", i+1, len(o.Recipes), r.Name)
		if err := s.push(ctx, r, o, title); err != nil {
			return errors.Join(fmt.Errorf("push %s: %w", r.Name, err), s.close())
		}
	}
	return s.close()
}

func (s *store) push(ctx context.Context, r *Recipe, o PushOptions, title string) error {
	built, err := s.image(r)
	if err != nil {
		return err
	}
	if built == nil {
		return errors.New("it is not built")
	}
	ref, err := name.ParseReference(o.Registry+"/"+r.Name, name.WithDefaultTag("latest"))
	if err != nil {
		return err
	}
	if there, err := remote.Head(ref, remote.WithContext(ctx)); err == nil && there.Digest.String() == built.Digest {
		return nil
	}
	img, err := s.assemble(r)
	if err != nil {
		return err
	}
	started := time.Now()
	if err := remote.Write(ref, img, remote.WithContext(ctx)); err != nil {
		return err
	}
	if err := s.share(r, o.Blob); err != nil {
		return err
	}
	_, err = fmt.Fprintf(o.Progress, "images: %s: pushed to %s, %s in %.1f s\n", title, ref,
		humanize.IBytes(uint64(built.CompressedBytes)), time.Since(started).Seconds())
	return err
}

// share makes the layers that the registry has now the same files as those of the
// cache.
func (s *store) share(r *Recipe, blob func(string) string) error {
	if blob == nil {
		return nil
	}
	for _, l := range r.Top.chain() {
		built, err := s.layer(l)
		if err != nil {
			return err
		}
		if err := stack.SameFile(blob(built.Digest.String()), s.blob(l)); err != nil {
			return err
		}
	}
	return nil
}
