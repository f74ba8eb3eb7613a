package images

import (
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/slackerd/slacker/image"
)

// assemble puts the layers of a recipe together. All of them are built.
func (s *store) assemble(r *Recipe) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	var created v1.Time
	for _, l := range r.Top.chain() {
		built, err := s.layer(l)
		if err != nil {
			return nil, err
		}
		created = v1.Time{Time: time.Unix(built.Epoch, 0).UTC()}
		img, err = mutate.Append(img, mutate.Addendum{
			Layer:     image.StoredLayer(s.blob(l), types.OCILayer, built.Digest, built.DiffID, built.SizeBytes),
			History:   v1.History{Created: created, CreatedBy: built.CreatedBy},
			MediaType: types.OCILayer,
		})
		if err != nil {
			return nil, err
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", runtime.GOARCH, created
	config.Config = *r.Config.DeepCopy()
	return mutate.ConfigFile(img, config)
}
