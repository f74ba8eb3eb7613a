package image

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// openBase opens the image whose layers are used as they are.
func openBase(ctx context.Context, base string, plainHTTP bool) (v1.Image, error) {
	if strings.HasPrefix(base, registryPrefix) {
		ref, err := referenceOf(base, plainHTTP)
		if err != nil {
			return nil, err
		}
		img, err := remote.Image(ref, registryOptions(ctx, ref, plainHTTP)...)
		if err != nil {
			return nil, block.Errorf(block.IO, "base image %s: %w", base, err)
		}
		return img, nil
	}
	path, err := layout.FromPath(base)
	if err != nil {
		return nil, block.Errorf(block.Invalid, "base image %s: want an OCI layout or %sHOST/NAME:TAG: %w", base, registryPrefix, err)
	}
	index, err := path.ImageIndex()
	if err != nil {
		return nil, block.Errorf(block.Corrupt, "base image %s: %w", base, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, block.Errorf(block.Corrupt, "base image %s: %w", base, err)
	}
	if len(manifest.Manifests) != 1 || !manifest.Manifests[0].MediaType.IsImage() {
		return nil, block.Errorf(block.Invalid, "base image %s: want a layout with one image, got %d", base, len(manifest.Manifests))
	}
	return path.Image(manifest.Manifests[0].Digest)
}

// layerType is the type of layers that suits a base image: Docker's where it
// has Docker's.
func layerType(img v1.Image) types.MediaType {
	if t, err := img.MediaType(); err == nil && t == types.DockerManifestSchema2 {
		return types.DockerLayer
	}
	return types.OCILayer
}

// publish puts the image where it is wanted. In a registry, layers that are
// there are not sent again.
func (e *layerExport) publish(ctx context.Context, img v1.Image) error {
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	e.res.Format, e.res.Image = FormatOCI, digest.String()
	if strings.HasPrefix(e.Dest, registryPrefix) {
		ref, err := referenceOf(e.Dest, e.PlainHTTP)
		if err != nil {
			return err
		}
		return remote.Write(ref, img, registryOptions(ctx, ref, e.PlainHTTP)...)
	}
	return e.publishLayout(img)
}

// publishLayout makes a layout under another name, and renames it when it is
// whole and on the disk.
func (e *layerExport) publishLayout(img v1.Image) error {
	dest := filepath.Clean(e.Dest)
	partial := dest + partialSuffix
	if err := os.RemoveAll(partial); err != nil {
		return openError(partial, err)
	}
	p, err := layout.Write(partial, empty.Index)
	if err != nil {
		return writeError(partial, err)
	}
	var opts []layout.Option
	if e.Tag != "" {
		opts = append(opts, layout.WithAnnotations(map[string]string{nameAnnotations[0]: e.Tag}))
	}
	err = p.AppendImage(img, opts...)
	if err == nil {
		err = syncTree(partial)
	}
	if err == nil && e.Force {
		err = os.RemoveAll(dest)
	}
	if err == nil {
		err = os.Rename(partial, dest)
	}
	if err != nil {
		_ = os.RemoveAll(partial) // what it was about is told
		return writeError(dest, err)
	}
	return syncTree(filepath.Dir(dest))
}

// syncTree makes all of the file system that holds dir durable.
func syncTree(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	return unix.Syncfs(int(f.Fd()))
}
