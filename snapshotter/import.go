package snapshotter

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/slackerd/slacker/block"
)

// Layers are those of an image, lowest first.
type Layers interface {
	// DiffIDs are the digests of the uncompressed layers.
	DiffIDs() []string
	// Unpack applies a layer to a directory that holds those below it, and
	// refuses it when its digest is another.
	Unpack(ctx context.Context, i int, dir string) (warnings []string, err error)
}

// Imported is what an import has done to one layer.
type Imported struct {
	Chain    string   `json:"chain"`
	Existed  bool     `json:"existed"` // the server had it
	Bytes    int64    `json:"bytes"`   // what the layer takes there
	Warnings []string `json:"warnings,omitempty"`
}

// Import makes chains of the layers of an image, so that a pull finds them all.
// It tells of each as it is done. Chains that are complete stay when it fails.
func (s *Snapshotter) Import(ctx context.Context, layers Layers, done func(Imported)) (err error) {
	var ids []digest.Digest
	for _, id := range layers.DiffIDs() {
		d, err := digest.Parse(id)
		if err != nil {
			return block.Errorf(block.Invalid, "layer digest %q: %w", id, err)
		}
		ids = append(ids, d)
	}
	run := "import-" + rand.Text()[:10]
	var names []string
	defer func() { // the local records; children go first
		for i := len(names) - 1; i >= 0; i-- {
			err = errors.Join(err, s.Remove(context.WithoutCancel(ctx), names[i]))
		}
	}()
	parent := ""
	for i, id := range identity.ChainIDs(ids) {
		name, got, err := s.importLayer(ctx, layers, i, run, parent, id.String())
		if err != nil {
			return block.Wrap(block.Internal, err, fmt.Sprintf("layer %d of %d", i+1, len(ids)))
		}
		names = append(names, name)
		parent = name
		done(got)
	}
	return nil
}

// importLayer makes the chain of one layer on the record parent, and returns its
// own record.
func (s *Snapshotter) importLayer(ctx context.Context, layers Layers, i int, run, parent, chain string) (name string, got Imported, err error) {
	got.Chain = chain
	labels := snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: chain})
	key := fmt.Sprintf("%s/%d", run, i)
	ms, err := s.make(ctx, snapshots.KindActive, key, parent, []snapshots.Opt{labels})
	switch {
	case block.Is(err, block.Exists):
		got.Existed = true
		if name, err = s.store.childWithRef(parent, chain); err == nil && name == "" {
			err = block.Errorf(block.Internal, "chain %s is there and has no record", chain)
		}
	case err == nil:
		name = run + "/" + chain
		if got.Warnings, err = layers.Unpack(ctx, i, ms[0].Source); err == nil {
			err = s.commit(ctx, name, key, []snapshots.Opt{labels})
		}
		if err != nil {
			return "", got, errors.Join(err, s.Remove(context.WithoutCancel(ctx), key))
		}
	}
	if err != nil {
		return "", got, err
	}
	r, err := s.store.get(name)
	if err == nil && r.Place != s.names.prefix.Place(chain) {
		err = errors.Join(block.Errorf(block.Permission, "chain %s: this worker may not publish below %s", chain, s.names.prefix.Chains()), s.Remove(ctx, name))
	}
	if err == nil {
		got.Bytes = r.UsageBytes
	}
	return name, got, err
}

// Drain clears all garbage and all stones; what is left then is in use.
func (s *Snapshotter) Drain(ctx context.Context) error {
	return errors.Join(s.reaper.search(ctx), s.reaper.clear(ctx, now().Add(2*spareLife)))
}
