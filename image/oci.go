package image

import (
	"bytes"
	"encoding/json"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/slackerd/slacker/block"
)

const (
	// maxIndexDepth bounds indexes within indexes.
	maxIndexDepth = 4
	// maxIndexManifests bounds the manifests of one index.
	maxIndexManifests = 4096
)

// Annotations that name an image in an index.
var nameAnnotations = []string{"org.opencontainers.image.ref.name", "io.containerd.image.name"}

// readOCILayout finds the wanted image of an OCI layout.
func readOCILayout(a archive, source string, s selection) (*containerImage, error) {
	if err := checkOCIVersion(a, source); err != nil {
		return nil, err
	}
	doc, err := readDocument(a, ociIndexFile, "")
	if err != nil {
		return nil, err
	}
	o := ociReader{a: a, source: source, want: s}
	chosen, err := o.choose(doc)
	if err != nil {
		return nil, err
	}
	for range maxIndexDepth {
		doc, err := o.document(chosen)
		if err != nil {
			return nil, err
		}
		if !chosen.MediaType.IsIndex() && !isIndex(doc) {
			return o.image(chosen, doc)
		}
		index, err := o.parseIndex(doc)
		if err != nil {
			return nil, err
		}
		next, err := o.byPlatform(index)
		if err != nil {
			return nil, err
		}
		if o.name == "" {
			o.name = describe(chosen)
		}
		chosen = next
	}
	return nil, block.Errorf(block.Invalid, "%s: indexes lie more than %d deep", source, maxIndexDepth)
}

func checkOCIVersion(a archive, source string) error {
	doc, err := readDocument(a, ociLayoutFile, "")
	if err != nil {
		return err
	}
	var layout struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := json.Unmarshal(doc, &layout); err != nil {
		return block.Errorf(block.Corrupt, "%s of %s: %w", ociLayoutFile, source, err)
	}
	if layout.Version != "1.0.0" {
		return block.Errorf(block.Unsupported, "%s is an OCI layout of version %.40q: want 1.0.0", source, layout.Version)
	}
	return nil
}

// isIndex tells an index whose descriptor states no media type.
func isIndex(doc []byte) bool {
	var d struct {
		Manifests []json.RawMessage `json:"manifests"`
	}
	return json.Unmarshal(doc, &d) == nil && d.Manifests != nil
}

// ociReader walks the indexes of a layout.
type ociReader struct {
	a      archive
	source string
	want   selection
	name   string // of what the first index named
}

func (o *ociReader) parseIndex(doc []byte) ([]v1.Descriptor, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(doc))
	if err != nil {
		return nil, block.Errorf(block.Corrupt, "index of %s: %w", o.source, err)
	}
	if len(index.Manifests) > maxIndexManifests {
		return nil, block.Errorf(block.Invalid, "index of %s names %d manifests: want at most %d", o.source, len(index.Manifests), maxIndexManifests)
	}
	return index.Manifests, nil
}

// document reads the manifest or index of a descriptor, and verifies it.
func (o *ociReader) document(d v1.Descriptor) ([]byte, error) {
	if d.Digest.Algorithm != "sha256" || !isHexDigest(d.Digest.Hex) {
		return nil, block.Errorf(block.Unsupported, "%s: a manifest has the digest %s: want one of SHA-256", o.source, d.Digest)
	}
	return readDocument(o.a, blobName(d.Digest.Hex), d.Digest.Hex)
}

// choose picks the descriptor of the wanted image from the layout's own index.
func (o *ociReader) choose(doc []byte) (v1.Descriptor, error) {
	all, err := o.parseIndex(doc)
	if err != nil {
		return v1.Descriptor{}, err
	}
	all = distinct(all)
	found := all
	if o.want.image != "" {
		found = slices.DeleteFunc(slices.Clone(all), func(d v1.Descriptor) bool { return !matches(d, o.want.image) })
	}
	if len(found) > 1 { // a layout may list the platforms of one image directly
		if fit := o.suitable(found); len(fit) > 0 {
			found = fit
		}
	}
	if len(found) == 1 {
		o.name = describe(found[0])
		return found[0], nil
	}
	var names []string
	for _, d := range all {
		names = append(names, describe(d))
	}
	return v1.Descriptor{}, choiceError(o.source, o.want.image, names, len(found))
}

// distinct leaves one descriptor of each digest and name.
func distinct(all []v1.Descriptor) []v1.Descriptor {
	seen := map[string]bool{}
	return slices.DeleteFunc(slices.Clone(all), func(d v1.Descriptor) bool {
		key := d.Digest.String() + " " + describe(d)
		dup := seen[key]
		seen[key] = true
		return dup
	})
}

// suitable keeps what is for the wanted platform, or does not say.
func (o *ociReader) suitable(all []v1.Descriptor) []v1.Descriptor {
	return slices.DeleteFunc(slices.Clone(all), func(d v1.Descriptor) bool {
		return d.Platform != nil && !d.Platform.Satisfies(o.want.platform)
	})
}

// byPlatform picks from an index of one image for several platforms. Where
// several suit, the index has the best first.
func (o *ociReader) byPlatform(all []v1.Descriptor) (v1.Descriptor, error) {
	if fit := o.suitable(all); len(fit) > 0 {
		return fit[0], nil
	}
	var have []string
	for _, d := range all {
		if d.Platform != nil && d.Platform.OS != "unknown" {
			have = append(have, d.Platform.String())
		}
	}
	return v1.Descriptor{}, choiceError(o.source, "for platform "+o.want.platform.String(), append(have, "no more"), 0)
}

func matches(d v1.Descriptor, asked string) bool {
	for _, key := range nameAnnotations {
		if have := d.Annotations[key]; have != "" && sameReference(have, asked) {
			return true
		}
	}
	return sameDigest(asked, d.Digest.Hex)
}

// describe names a descriptor for people.
func describe(d v1.Descriptor) string {
	for _, key := range slices.Backward(nameAnnotations) {
		if have := d.Annotations[key]; have != "" {
			return have
		}
	}
	return d.Digest.String()
}

// image reads the manifest and configuration of an image.
func (o *ociReader) image(d v1.Descriptor, doc []byte) (*containerImage, error) {
	m, err := v1.ParseManifest(bytes.NewReader(doc))
	if err != nil {
		return nil, block.Errorf(block.Corrupt, "manifest %s of %s: %w", d.Digest, o.source, err)
	}
	if !m.Config.MediaType.IsConfig() {
		return nil, block.Errorf(block.Unsupported, "%s: %s is no container image: its configuration is of type %.100q", o.source, o.name, m.Config.MediaType)
	}
	img := &containerImage{name: o.name}
	for i, l := range m.Layers {
		if l.Digest.Algorithm != "sha256" || !isHexDigest(l.Digest.Hex) || !l.MediaType.IsLayer() {
			return nil, block.Errorf(block.Unsupported, "%s: layer %d is %s of type %.100q: want a tar archive with a digest of SHA-256", o.source, i, l.Digest, l.MediaType)
		}
		img.layers = append(img.layers, imageLayer{blob: blobName(l.Digest.Hex), digest: l.Digest.Hex, size: l.Size})
	}
	config, err := o.document(m.Config)
	if err != nil {
		return nil, err
	}
	return img, img.readConfig(config)
}
