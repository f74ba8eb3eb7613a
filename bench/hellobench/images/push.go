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
)

// PushOptions says what to push and where to.
type PushOptions struct {
	// Dir is the cache; what is pushed has to be in it.
	Dir     string
	Recipes []*Recipe
	// Registry is HOST:PORT or HOST:PORT/PATH. Plain HTTP is tried for loopback
	// addresses only.
	Registry string
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
	_, err = fmt.Fprintf(o.Progress, "images: %s: pushed to %s, %s in %.1f s\n", title, ref,
		humanize.IBytes(uint64(built.CompressedBytes)), time.Since(started).Seconds())
	return err
}
