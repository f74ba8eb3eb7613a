package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
)

// snapshotLayer is the media type of a layer whose content is a snapshot of the
// server. The blob is a sign only; a containerd that has no snapshot of that
// chain refuses the type, where it would otherwise run without what changed.
const snapshotLayer types.MediaType = "application/vnd.oci.image.layer.slacker.snapshot.v1"

const (
	fiFreeze = 0xc0045877 // FIFREEZE of linux/fs.h
	fiThaw   = 0xc0045878 // FITHAW
)

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
	Prefix    string
	PlainHTTP bool
	Client    slackerv1connect.AdminServiceClient
}

// Push makes an image of the state of a volume, for workers that share the
// server: a snapshot under the name of the layers' chain, a manifest, and a layer
// of a few bytes that stands for what changed. No data is read or moved. Result's
// Image is the digest.
//
// The manifest comes last: whoever finds it finds all that it names.
func Push(ctx context.Context, o PushOptions) (Result, error) {
	started := time.Now()
	if err := o.check(); err != nil {
		return Result{}, err
	}
	dest, err := referenceOf(o.Dest, o.PlainHTTP)
	if err != nil {
		return Result{}, err
	}
	failed := func(err error) error { return block.Errorf(block.IO, "push %s to %s: %w", o.Volume, o.Dest, err) }
	pusher, err := remote.NewPusher(remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain))
	if err != nil {
		return Result{}, failed(err)
	}
	sign, err := signOf(o.Volume)
	if err != nil {
		return Result{}, failed(err)
	}
	g, gctx := errgroup.WithContext(ctx)
	upload := func(l v1.Layer) {
		g.Go(func() error {
			if err := pusher.Upload(gctx, dest.Context(), l); err != nil {
				return failed(err)
			}
			return nil
		})
	}
	var img v1.Image
	upload(sign)
	g.Go(func() error {
		base, err := openBase(gctx, o.Base, o.PlainHTTP)
		if err != nil {
			return err
		}
		var chain string
		var config v1.Layer
		if img, config, chain, err = o.build(base, sign); err != nil {
			return failed(err)
		}
		upload(config)
		return o.publish(gctx, chain)
	})
	if err := g.Wait(); err != nil {
		return Result{}, err
	}
	put := pusher.Push
	if base, err := referenceOf(o.Base, o.PlainHTTP); err == nil && base.Context() == dest.Context() {
		put = pusher.Put // the repository has the other layers
	}
	if err := put(ctx, dest, img); err != nil {
		return Result{}, failed(err)
	}
	digest, err := img.Digest()
	return Result{Format: FormatOCI, Image: digest.String(), Took: time.Since(started)}, err
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
		if chain != "" {
			sum := sha256.Sum256([]byte(chain + " " + id.String()))
			chain = "sha256:" + hex.EncodeToString(sum[:])
			continue
		}
		chain = id.String()
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

// publish makes the snapshot, with the file system frozen if that is wanted.
func (o *PushOptions) publish(ctx context.Context, chain string) error {
	if o.Freeze != "" {
		thaw, err := freeze(o.Freeze)
		if err != nil {
			return err
		}
		return errors.Join(o.snapshot(ctx, chain), thaw())
	}
	return o.snapshot(ctx, chain)
}

func (o *PushOptions) snapshot(ctx context.Context, chain string) error {
	_, err := o.Client.Publish(ctx, connect.NewRequest(&slackerv1.PublishRequest{
		Volume: o.Volume, NewVolume: o.Prefix + "/chains/" + strings.Replace(chain, ":", "-", 1), NewSnapshot: "layer"}))
	if err != nil {
		return rpcError(err, "push "+o.Volume)
	}
	return nil
}

// freeze writes out all of a file system and lets nothing be written to it
// until it is thawed.
func freeze(dir string) (thaw func() error, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, openError(dir, err)
	}
	if err := unix.IoctlSetInt(int(f.Fd()), fiFreeze, 0); err != nil {
		_ = f.Close() // read only
		return nil, block.Errorf(block.KindOfFile(err), "freeze %s: %w", dir, err)
	}
	return func() error {
		defer func() { _ = f.Close() }() // read only
		if err := unix.IoctlSetInt(int(f.Fd()), fiThaw, 0); err != nil {
			return block.Errorf(block.IO, "thaw %s, which stays frozen until fsfreeze -u: %w", dir, err)
		}
		return nil
	}, nil
}
