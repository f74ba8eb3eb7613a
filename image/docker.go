package image

import (
	"encoding/json"
	"path"
	"strings"

	"github.com/slackerd/slacker/block"
)

// dockerEntry is one image in the manifest.json of a docker-archive.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// name is how messages call the image.
func (e dockerEntry) name() string {
	if len(e.RepoTags) > 0 {
		return e.RepoTags[0]
	}
	return "sha256:" + e.configDigest()
}

// configDigest is the digest that the name of the configuration states, in
// hex, or empty.
func (e dockerEntry) configDigest() string {
	digest := strings.TrimPrefix(strings.TrimSuffix(path.Base(e.Config), ".json"), "sha256:")
	if isHexDigest(digest) {
		return digest
	}
	return ""
}

func (e dockerEntry) matches(asked string) bool {
	for _, tag := range e.RepoTags {
		if sameReference(tag, asked) {
			return true
		}
	}
	return sameDigest(asked, e.configDigest())
}

// readDockerArchive finds the wanted image of a docker-archive.
func readDockerArchive(a archive, source string, s selection) (*containerImage, error) {
	doc, err := readDocument(a, dockerManifestFile, "")
	if err != nil {
		return nil, err
	}
	var entries []dockerEntry
	if err := json.Unmarshal(doc, &entries); err != nil {
		return nil, block.Errorf(block.Corrupt, "%s of %s: %w", dockerManifestFile, source, err)
	}
	entry, err := chooseDocker(entries, source, s.image)
	if err != nil {
		return nil, err
	}
	img := &containerImage{name: entry.name()}
	for _, layer := range entry.Layers {
		l := imageLayer{blob: layer, size: -1}
		if base := path.Base(layer); path.Dir(path.Dir(layer)) == ociBlobsDir && isHexDigest(base) {
			l.digest = base
		}
		img.layers = append(img.layers, l)
	}
	config, err := readDocument(a, entry.Config, entry.configDigest())
	if err != nil {
		return nil, err
	}
	return img, img.readConfig(config)
}

func chooseDocker(entries []dockerEntry, source, asked string) (dockerEntry, error) {
	var found []dockerEntry
	var names []string
	for _, e := range entries {
		names = append(names, e.name())
		if asked == "" || e.matches(asked) {
			found = append(found, e)
		}
	}
	if len(found) != 1 {
		return dockerEntry{}, choiceError(source, asked, names, len(found))
	}
	return found[0], nil
}

// maxNamesListed bounds the names in a message.
const maxNamesListed = 20

// choiceError says that an archive does not hold exactly one image that was
// asked for.
func choiceError(source, asked string, names []string, found int) error {
	if len(names) > maxNamesListed {
		names = append(names[:maxNamesListed:maxNamesListed], "...")
	}
	list := strings.Join(names, ", ")
	switch {
	case len(names) == 0:
		return block.Errorf(block.Invalid, "%s holds no image", source)
	case found == 0:
		return block.Errorf(block.NotFound, "%s holds no image %s: it has %s", source, asked, list)
	case asked == "":
		return block.Errorf(block.Invalid, "%s holds %d images: say which of %s", source, found, list)
	}
	return block.Errorf(block.Invalid, "%s holds %d images that match %s: want a digest; it has %s", source, found, asked, list)
}
