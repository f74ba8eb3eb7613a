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
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
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
func Push(ctx context.Context, o PushOptions) (Result, error) {
	started := time.Now()
	if err := o.check(); err != nil {
		return Result{}, err
	}
	base, err := openBase(ctx, o.Base, o.PlainHTTP)
	if err != nil {
		return Result{}, err
	}
	img, chain, err := o.build(base)
	if err != nil {
		return Result{}, block.Wrap(block.IO, err, "push "+o.Volume)
	}
	if err := o.publish(ctx, chain); err != nil {
		return Result{}, err
	}
	ref, err := referenceOf(o.Dest, o.PlainHTTP)
	if err != nil {
		return Result{}, err
	}
	if err := remote.Write(ref, img, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return Result{}, block.Errorf(block.IO, "push %s to %s: %w", o.Volume, o.Dest, err)
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
	if _, err := referenceOf(o.Dest, o.PlainHTTP); err != nil {
		return err
	}
	return block.CheckVolumeName(o.Volume)
}

// build puts the layer onto the base, and returns the chain's id.
func (o *PushOptions) build(base v1.Image) (v1.Image, string, error) {
	sign, err := signOf(o.Volume)
	if err != nil {
		return nil, "", err
	}
	// The library takes the digest of the blob for that of the content, as it is
	// for a layer that is not compressed.
	img, err := mutate.Append(base, mutate.Addendum{
		Layer: static.NewLayer(sign, snapshotLayer), MediaType: snapshotLayer,
		History: v1.History{Created: v1.Time{Time: time.Now().UTC().Truncate(time.Second)}, CreatedBy: "slacker snapshot of " + o.Volume},
	})
	if err != nil {
		return nil, "", err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, "", err
	}
	chain := ""
	for _, id := range config.RootFS.DiffIDs {
		if chain != "" {
			sum := sha256.Sum256([]byte(chain + " " + id.String()))
			chain = "sha256:" + hex.EncodeToString(sum[:])
			continue
		}
		chain = id.String()
	}
	return img, chain, nil
}

// signOf is an archive without files that is like no other.
func signOf(volume string) ([]byte, error) {
	unique := make([]byte, 16)
	if _, err := rand.Read(unique); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "slacker", PAXRecords: map[string]string{
		"comment": "the content of this layer is a snapshot of " + volume + ", " + hex.EncodeToString(unique)}})
	return b.Bytes(), errors.Join(err, w.Close())
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
