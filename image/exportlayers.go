package image

import (
	"bytes"
	"context"
	"crypto/tls"
	"os"
	"runtime"
	"strings"
	"time"

	"connectrpc.com/connect"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
)

// registryPrefix begins a destination or a base in a registry.
const registryPrefix = "docker://"

// LayersOptions say how to export snapshots as a container image.
type LayersOptions struct {
	// Source is a snapshot, VOLUME@SNAPSHOT; its file system becomes the image.
	Source string
	// Below are the snapshots that it was made from, lowest first: each becomes a
	// layer of what changed since the one before it.
	Below []string
	// Base is an image, an OCI layout or docker://HOST/NAME:TAG, that is what the
	// last of Below holds: its layers are used as they are, and its configuration.
	Base string
	// Dest is a directory to make, or docker://HOST/NAME:TAG.
	Dest string
	// Tag is the name of the image in a layout; empty is none.
	Tag string
	// Config is the configuration of containers (JSON), instead of that of Base.
	Config []byte
	// PlainHTTP allows a registry without TLS; on loopback it is allowed anyway.
	PlainHTTP bool
	Client    slackerv1connect.AdminServiceClient
	NBDAddr   string
	TLS       func() (*tls.Config, error)
	Progress  Progress
	// TempDir is where the snapshots' data and the layers are put meanwhile.
	TempDir string
	// Force replaces a directory that is there.
	Force bool
}

// ExportLayers makes an ordinary container image of snapshots. The same
// snapshots give the same image. It needs root, to mount them.
func ExportLayers(ctx context.Context, o LayersOptions) (res Result, err error) {
	started := time.Now()
	if err := o.check(); err != nil {
		return Result{}, err
	}
	w, err := newWorkspace(o.TempDir, o.Progress)
	if err != nil {
		return Result{}, err
	}
	defer func() {
		if closeErr := w.close(); err == nil {
			err = closeErr
		}
	}()
	img, created, err := o.start(ctx)
	if err != nil {
		return Result{}, err
	}
	e := &layerExport{LayersOptions: o, w: w, created: created, layerType: layerType(img), res: &res}
	if img, err = e.layers(ctx, img); err != nil {
		return Result{}, block.Wrap(block.IO, err, "export "+o.Source)
	}
	if err := e.publish(ctx, img); err != nil {
		return Result{}, block.Wrap(block.IO, err, "export "+o.Source+" to "+o.Dest)
	}
	res.Took = time.Since(started)
	return res, nil
}

func (o *LayersOptions) check() error {
	if o.Client == nil {
		return block.Errorf(block.Internal, "export %s: no client of the server given", o.Source)
	}
	for _, s := range append([]string{o.Source}, o.Below...) {
		if volume, _, err := block.SplitSnapshot(s); err != nil || volume == "" {
			return block.Errorf(block.Invalid, "export %q: a container image is made of snapshots, want VOLUME@SNAPSHOT", s)
		}
	}
	if o.Base != "" && len(o.Below) != 1 {
		return block.Errorf(block.Invalid, "export %s: want one snapshot that holds what the base image %s does, got %d", o.Source, o.Base, len(o.Below))
	}
	if o.Dest == "" {
		return block.Errorf(block.Invalid, "export %s: no destination given: want a directory or %sHOST/NAME:TAG", o.Source, registryPrefix)
	}
	if !strings.HasPrefix(o.Dest, registryPrefix) {
		if _, err := os.Lstat(o.Dest); err == nil && !o.Force {
			return existsError(o.Dest)
		}
	}
	o.Progress = serialize(o.Progress)
	return nil
}

// start returns the image that layers are put onto, and the time of the
// snapshot, which the new layers bear.
func (o *LayersOptions) start(ctx context.Context) (v1.Image, time.Time, error) {
	volume, snapshot, _ := block.SplitSnapshot(o.Source)
	got, err := o.Client.GetSnapshot(ctx, connect.NewRequest(&slackerv1.GetSnapshotRequest{Volume: volume, Snapshot: snapshot}))
	if err != nil {
		return nil, time.Time{}, rpcError(err, "export "+o.Source)
	}
	created := got.Msg.GetSnapshot().GetCreated().AsTime().Truncate(time.Second)
	var img v1.Image
	if o.Base != "" {
		if img, err = openBase(ctx, o.Base, o.PlainHTTP); err != nil {
			return nil, time.Time{}, err
		}
	} else {
		img = mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, time.Time{}, block.Errorf(block.Corrupt, "base image %s: %w", o.Base, err)
	}
	config = config.DeepCopy()
	config.Created = v1.Time{Time: created}
	if o.Base == "" {
		config.OS, config.Architecture = "linux", runtime.GOARCH
		config.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	if len(o.Config) > 0 {
		given, err := v1.ParseConfigFile(bytes.NewReader(o.Config))
		if err != nil {
			return nil, time.Time{}, block.Errorf(block.Invalid, "configuration: want that of an image, in JSON: %w", err)
		}
		config.Config = given.Config
	}
	img, err = mutate.ConfigFile(img, config)
	return img, created, err
}

// layerExport is an export in progress.
type layerExport struct {
	LayersOptions
	w       *workspace
	created time.Time
	// layerType is the media type of new layers.
	layerType types.MediaType
	res       *Result
}

// layers adds a layer for each snapshot to img.
func (e *layerExport) layers(ctx context.Context, img v1.Image) (v1.Image, error) {
	snapshots := append(append([]string{}, e.Below...), e.Source)
	lower := ""
	for i, snapshot := range snapshots {
		raw, err := e.download(ctx, snapshot, i)
		if err != nil {
			return nil, err
		}
		if e.Base == "" || i > 0 {
			layer, err := e.layer(ctx, lower, raw, i)
			if err != nil {
				return nil, block.Wrap(block.IO, err, "layer of "+snapshot)
			}
			img, err = mutate.Append(img, mutate.Addendum{
				Layer: layer, MediaType: e.layerType,
				History: v1.History{Created: v1.Time{Time: e.created}, CreatedBy: "slacker snapshot " + snapshot},
			})
			if err != nil {
				return nil, err
			}
		}
		if lower != "" {
			if err := os.Remove(lower); err != nil {
				return nil, openError(lower, err)
			}
		}
		lower = raw
	}
	return img, nil
}

// download copies a snapshot's data into a sparse temporary file.
func (e *layerExport) download(ctx context.Context, snapshot string, i int) (string, error) {
	path, err := e.w.path("disk" + string(rune('a'+i%26)))
	if err != nil {
		return "", err
	}
	res, err := Export(ctx, ExportOptions{Source: snapshot, Dest: path, Client: e.Client, NBDAddr: e.NBDAddr, TLS: e.TLS, Progress: e.Progress, Force: true})
	if err != nil {
		return "", err
	}
	e.res.SizeBytes = res.SizeBytes
	e.res.SourceBytes = res.SizeBytes
	e.res.WrittenBytes += res.WrittenBytes
	return path, nil
}

// layer writes what distinguishes two disk images; without a lower one, all
// that is in the upper.
func (e *layerExport) layer(ctx context.Context, lower, upper string, i int) (*PackedLayer, error) {
	diff := &treeDiff{ctx: ctx, progress: e.Progress}
	images := map[string]string{}
	for _, m := range []struct {
		img  string
		name string
		at   *string
	}{{lower, "lower", &diff.lower}, {upper, "upper", &diff.upper}} {
		if m.img == "" {
			continue
		}
		dir, err := e.w.path(m.name)
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, openError(dir, err)
		}
		images[dir], *m.at = m.img, dir
	}
	blob, err := e.w.path("layer" + string(rune('a'+i%26)))
	if err != nil {
		return nil, err
	}
	var packed *PackedLayer
	err = mounted(ctx, images, func() (err error) {
		packed, err = PackLayer(blob, e.layerType, time.Time{}, func(out *LayerWriter) error {
			diff.out = out
			return diff.write()
		})
		return err
	})
	e.res.Files += diff.files
	return packed, err
}
