package image

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// UnpackOptions says which layers to open; see ImportOptions.
type UnpackOptions struct {
	Source, Format, Image, Platform, TempDir string
	Progress                                 Progress
}

// Layers are those of a container image, lowest first, to be unpacked one onto
// the other.
type Layers struct {
	work    *workspace
	archive archive
	image   *containerImage
	warning string
}

// OpenLayers finds a container image in an archive or OCI layout.
func OpenLayers(ctx context.Context, o UnpackOptions) (l *Layers, err error) {
	want, err := newSelection(o.Image, o.Platform)
	if err != nil {
		return nil, err
	}
	if o.Format == "" || o.Format == FormatAuto {
		if o.Format, err = Detect(o.Source); err != nil {
			return nil, err
		}
	}
	if o.Format != FormatDockerArchive && o.Format != FormatOCI {
		return nil, block.Errorf(block.Invalid, "%s is of format %s: want a container image, %s or %s", o.Source, o.Format, FormatDockerArchive, FormatOCI)
	}
	work, err := newWorkspace(o.TempDir, o.Progress)
	if err != nil {
		return nil, err
	}
	l = &Layers{work: work}
	if l.archive, l.image, err = openContainer(ctx, work, o.Source, o.Format, want); err == nil {
		l.warning, err = l.image.checkPlatform(want)
	}
	if err != nil {
		_ = l.Close() // nothing was written
		return nil, err
	}
	return l, nil
}

// Name is how the archive calls the image, or its digest.
func (l *Layers) Name() string { return l.image.name }

// Warning is what is odd about the image, or "".
func (l *Layers) Warning() string { return l.warning }

// DiffIDs are the digests of the uncompressed layers, as sha256:HEX.
func (l *Layers) DiffIDs() []string {
	var ids []string
	for _, layer := range l.image.layers {
		ids = append(ids, "sha256:"+layer.diffID)
	}
	return ids
}

// Unpack applies layer number i to the directory dir, which holds those below
// it. A layer whose digests are not as stated is an error; dir is of no use then.
func (l *Layers) Unpack(ctx context.Context, i int, dir string) (warnings []string, err error) {
	if os.Geteuid() != 0 {
		return nil, block.Errorf(block.Permission, "unpacking files needs root, to keep their owners, devices and attributes")
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(dir, err)
	}
	t := &tree{dir: dir, root: root, guard: &spaceGuard{dir: dir}}
	_, err = t.unpackLayer(ctx, l.archive, l.image.layers[i], layerName(l.image, i), l.work.progress)
	if err == nil {
		err = t.setTimes()
	}
	if closeErr := t.close(); err == nil {
		err = closeErr
	}
	return t.warnings, err
}

// Close removes temporary files.
func (l *Layers) Close() error {
	if l.archive != nil {
		_ = l.archive.close() // read only
	}
	return l.work.close()
}
