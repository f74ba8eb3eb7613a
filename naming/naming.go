// Package naming says what the volumes of containers and their layers are called on
// the server, for those who make them and for those who look for them.
//
//	PREFIX/chains/sha256-HEX@layer         a chain of image layers, by its OCI chain id
//	PREFIX/base/ext4-FORMAT-BYTES@layer    the empty file system below the lowest layer
//	PREFIX/work/WORKER/STORE-RANDOM        a volume of a worker's own; @layer: a layer that is its own
//	PREFIX/work/WORKER/STORE-seen-RANDOM   a beat, which tells when the server heard of the store
//
// A place is a snapshot, VOLUME@layer. What the things are is in package
// snapshotter.
package naming

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

// Prefix is what the names of all volumes of a set of workers begin with.
type Prefix string

// DefaultPrefix is that of workers who are told no other.
const DefaultPrefix Prefix = "containers"

const (
	snapshot = "layer"
	beatMark = "seen-"
)

var ids = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Chains is what the names of chains' volumes begin with.
func (p Prefix) Chains() string { return string(p) + "/chains/" }

// Place is where the chain of an id is; "" for what is no id.
func (p Prefix) Place(id string) string {
	if !ids.MatchString(id) {
		return ""
	}
	return PlaceOf(p.Chains() + strings.Replace(id, ":", "-", 1))
}

// Base is the place of an empty file system.
func (p Prefix) Base(format int, sizeBytes uint64) string {
	return PlaceOf(fmt.Sprintf("%s/base/ext4-%d-%d", p, format, sizeBytes))
}

// Work is what the names of all workers' own volumes begin with.
func (p Prefix) Work() string { return string(p) + "/work/" }

// Store is what the names of a store's own volumes begin with, and no others do. No
// store has a hyphen in its name.
func (p Prefix) Store(worker, store string) string { return p.Work() + worker + "/" + store + "-" }

// Own takes the name of a volume that is a store's own apart.
func (p Prefix) Own(volume string) (worker, store, rest string, ok bool) {
	name, ours := strings.CutPrefix(volume, p.Work())
	worker, name, inWorker := strings.Cut(name, "/")
	store, rest, inStore := strings.Cut(name, "-")
	return worker, store, rest, ours && inWorker && inStore
}

// Beat is the name of a beat of the store whose volumes begin with own.
func Beat(own, random string) string { return own + beatMark + random }

// IsBeat tells a beat by what Own calls the rest of its name.
func IsBeat(rest string) bool { return strings.HasPrefix(rest, beatMark) }

// PlaceOf is the one snapshot of a volume.
func PlaceOf(volume string) string { return volume + "@" + snapshot }

// VolumeOf is the volume of a place.
func VolumeOf(place string) string {
	volume, _, _ := strings.Cut(place, "@")
	return volume
}

// Next is the id of a chain with one layer more, whose content has the digest diff;
// on "", which is no layer, the digest itself.
func Next(id, diff string) string {
	if id == "" {
		return diff
	}
	sum := sha256.Sum256([]byte(id + " " + diff))
	return "sha256:" + hex.EncodeToString(sum[:])
}
