package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/naming"
)

// snapshotLayer is the media type of a layer whose content is a snapshot of the
// server. The blob is a sign only; a containerd that has no snapshot of that
// chain refuses the type, where it would otherwise run without what changed.
const snapshotLayer types.MediaType = "application/vnd.oci.image.layer.slacker.snapshot.v1"

// PushOptions say what to push as an image without moving its data.
type PushOptions struct {
	// Volume is what a container runs on: a clone of the chain of Base.
	Volume string
	// Base is the image that the container was made from, docker://HOST/NAME:TAG.
	Base string
	// Dest is the image to make, docker://HOST/NAME:TAG.
	Dest string
	// Freeze is a directory where the volume is mounted on this host: its file
	// system is frozen for the moment of the snapshot, so that all that the
	// container has written is in it. Empty leaves it alone: what is not synced
	// may lack then.
	Freeze string
	// Prefix is what the names of the snapshotter's volumes begin with.
	Prefix    naming.Prefix
	PlainHTTP bool
	Client    slackerv1connect.AdminServiceClient
}

// Push makes an image of the state of a volume, for workers that share the
// server: a snapshot under the name of the layers' chain, a manifest, and a layer
// of a few bytes that stands for what changed. No data is read or moved. Result's
// Image is the digest.
//
// The manifest comes last: whoever finds it finds all that it names. Freezing waits
// for the kernel, some ten milliseconds: that goes on beside what the registry is
// asked for. For the registry nobody waits frozen (see whileFrozen).
func Push(ctx context.Context, o PushOptions) (Result, error) {
	started := time.Now()
	if err := o.check(); err != nil {
		return Result{}, err
	}
	dest, err := referenceOf(o.Dest, o.PlainHTTP)
	if err != nil {
		return Result{}, err
	}
	sign, err := signOf(o.Volume)
	if err != nil {
		return Result{}, o.failed(err)
	}
	pusher, err := remote.NewPusher(registryOptions(ctx, dest, o.PlainHTTP)...)
	if err != nil {
		return Result{}, o.failed(err)
	}
	g, gctx := errgroup.WithContext(ctx)
	upload := func(l v1.Layer) {
		g.Go(func() error { return o.failed(pusher.Upload(gctx, dest.Context(), l)) })
	}
	upload(sign)
	var img v1.Image
	chain := make(chan string, 1)
	g.Go(func() error {
		base, err := openBase(gctx, o.Base, o.PlainHTTP)
		if err != nil {
			return err
		}
		var config v1.Layer
		var id string
		if img, config, id, err = o.build(base, sign); err != nil {
			return o.failed(err)
		}
		chain <- id
		upload(config)
		return nil
	})
	g.Go(func() error {
		return whileFrozen(gctx, func() (func() error, error) { return freeze(o.Freeze) }, chain, func(id string) error { return o.snapshot(gctx, id) })
	})
	if err := g.Wait(); err != nil {
		return Result{}, err
	}
	put := pusher.Push
	if base, err := referenceOf(o.Base, o.PlainHTTP); err == nil && base.Context() == dest.Context() {
		put = pusher.Put // the repository has the other layers
	}
	if err := put(ctx, dest, img); err != nil {
		return Result{}, o.failed(err)
	}
	digest, err := img.Digest()
	return Result{Format: FormatOCI, Image: digest.String(), Took: time.Since(started)}, err
}

// failed says of what err is; nil stays nil.
func (o *PushOptions) failed(err error) error {
	if err == nil {
		return nil
	}
	return block.Errorf(block.IO, "push %s to %s: %w", o.Volume, o.Dest, err)
}

func (o *PushOptions) check() error {
	if o.Client == nil {
		return block.Errorf(block.Internal, "push %s: no client of the server given", o.Volume)
	}
	for _, ref := range []string{o.Base, o.Dest} {
		if !strings.HasPrefix(ref, registryPrefix) {
			return block.Errorf(block.Invalid, "push %s: image %q: want %sHOST/NAME:TAG", o.Volume, ref, registryPrefix)
		}
	}
	return block.CheckVolumeName(o.Volume)
}

// build puts the layer onto the base, and returns the image's configuration as a
// blob and the chain's id too.
func (o *PushOptions) build(base v1.Image, sign v1.Layer) (img v1.Image, config v1.Layer, chain string, err error) {
	// The library takes the digest of the blob for that of the content, as it is
	// for a layer that is not compressed.
	img, err = mutate.Append(base, mutate.Addendum{
		Layer: sign, MediaType: snapshotLayer,
		History: v1.History{Created: v1.Time{Time: time.Now().UTC().Truncate(time.Second)}, CreatedBy: "slacker snapshot of " + o.Volume},
	})
	if err != nil {
		return nil, nil, "", err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, nil, "", err
	}
	for _, id := range file.RootFS.DiffIDs {
		chain = naming.Next(chain, id.String())
	}
	config, err = partial.ConfigLayer(img)
	return img, config, chain, err
}

// signOf is a layer of an archive without files that is like no other.
func signOf(volume string) (v1.Layer, error) {
	unique := make([]byte, 16)
	if _, err := rand.Read(unique); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "slacker", PAXRecords: map[string]string{
		"comment": "the content of this layer is a snapshot of " + volume + ", " + hex.EncodeToString(unique)}})
	return static.NewLayer(b.Bytes(), snapshotLayer), errors.Join(err, w.Close())
}

// snapshot makes the snapshot that is the chain.
func (o *PushOptions) snapshot(ctx context.Context, chain string) error {
	volume, snapshot, err := block.SplitSnapshot(o.Prefix.Place(chain))
	if err != nil {
		return err
	}
	_, err = o.Client.Publish(ctx, connect.NewRequest(&slackerv1.PublishRequest{Volume: o.Volume, NewVolume: volume, NewSnapshot: snapshot}))
	if err != nil {
		return rpcError(err, "push "+o.Volume)
	}
	return nil
}
