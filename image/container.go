package image

import (
	"bytes"
	"context"
	"path"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/slackerd/slacker/block"
)

// maxLayers bounds the layers of an image.
const maxLayers = 1024

// containerImage is one image of an archive.
type containerImage struct {
	name   string // how the archive calls it, or its digest
	config []byte
	layers []imageLayer // lowest first
	// platform is what the configuration says it is for.
	platform v1.Platform
}

// imageLayer is a tar archive of changes.
type imageLayer struct {
	blob   string // its name in the archive
	digest string // SHA-256 of the blob in hex, or empty where nothing states it
	size   int64  // of the blob, or -1
	diffID string // SHA-256 in hex of the uncompressed layer
}

// selection says which image of an archive is wanted.
type selection struct {
	image    string
	platform v1.Platform
	// explicit: the platform was asked for, and is not this machine's.
	explicit bool
}

func newSelection(image, platform string) (selection, error) {
	s := selection{image: image, platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}
	if platform == "" {
		return s, nil
	}
	p, err := v1.ParsePlatform(platform)
	if err != nil || p.OS == "" || p.Architecture == "" {
		return s, block.Errorf(block.Invalid, "platform %q: want OS/ARCHITECTURE, as in linux/arm64", platform)
	}
	s.platform, s.explicit = *p, true
	return s, nil
}

// readConfig takes the layers' digests from a configuration.
func (c *containerImage) readConfig(config []byte) error {
	f, err := v1.ParseConfigFile(bytes.NewReader(config))
	if err != nil {
		return block.Errorf(block.Corrupt, "configuration of image %s: %w", c.name, err)
	}
	c.config = config
	c.platform = v1.Platform{OS: f.OS, Architecture: f.Architecture, Variant: f.Variant, OSVersion: f.OSVersion}
	if len(f.RootFS.DiffIDs) != len(c.layers) || len(c.layers) > maxLayers {
		return block.Errorf(block.Invalid, "image %s has %d layers and its configuration names %d: want the same number, at most %d",
			c.name, len(c.layers), len(f.RootFS.DiffIDs), maxLayers)
	}
	for i, id := range f.RootFS.DiffIDs {
		if id.Algorithm != "sha256" || !isHexDigest(id.Hex) {
			return block.Errorf(block.Unsupported, "image %s: layer %d has the digest %s: want one of SHA-256", c.name, i, id)
		}
		c.layers[i].diffID = id.Hex
	}
	return nil
}

// checkPlatform refuses, or warns of, an image for another platform.
func (c *containerImage) checkPlatform(s selection) (warning string, err error) {
	if c.platform.OS == "" && c.platform.Architecture == "" || c.platform.Satisfies(s.platform) {
		return "", nil
	}
	if s.explicit {
		return "", block.Errorf(block.NotFound, "image %s is for %s: want %s", c.name, c.platform, s.platform)
	}
	return "the image is for " + c.platform.String() + ", this machine is " + s.platform.String(), nil
}

// sameReference reports whether two names mean one image: redis and
// docker.io/library/redis:latest do.
func sameReference(a, b string) bool {
	if a == b {
		return true
	}
	ra, errA := name.ParseReference(a)
	rb, errB := name.ParseReference(b)
	return errA == nil && errB == nil && ra.Name() == rb.Name()
}

// sameDigest reports whether asked is a digest, or at least 12 hex digits of
// its beginning.
func sameDigest(asked, hexDigest string) bool {
	asked = strings.TrimPrefix(asked, "sha256:")
	return len(asked) >= 12 && strings.HasPrefix(hexDigest, asked)
}

// openContainer finds the image that o wants in an archive.
func openContainer(ctx context.Context, work *workspace, source, format string, s selection) (archive, *containerImage, error) {
	var a archive
	format, err := archiveFormat(source, format)
	if err != nil {
		return nil, nil, err
	}
	if format == "" {
		a, err = openDirArchive(source)
	} else {
		a, err = openTarArchive(ctx, work, source)
	}
	if err != nil {
		return nil, nil, err
	}
	var img *containerImage
	if format == FormatDockerArchive {
		img, err = readDockerArchive(a, source, s)
	} else {
		img, err = readOCILayout(a, source, s)
	}
	if err != nil {
		_ = a.close() // read only
		return nil, nil, err
	}
	return a, img, nil
}

// archiveFormat returns the format of an archive file, or "" for a directory.
func archiveFormat(source, format string) (string, error) {
	isDir, err := isDirectory(source)
	if err != nil {
		return "", err
	}
	if isDir && format == FormatDockerArchive {
		return "", block.Errorf(block.Invalid, "%s is a directory: want a file that docker save wrote", source)
	}
	if isDir {
		return "", nil
	}
	return format, nil
}

// blobName is where an OCI layout keeps a blob.
func blobName(hexDigest string) string { return path.Join(ociBlobsDir, "sha256", hexDigest) }
