package image

import (
	"context"
	"fmt"

	"github.com/slackerd/slacker/block"
)

// openFiles makes content of a source that holds files: an ext4 image.
func (o *ImportOptions) openFiles(ctx context.Context, work *workspace, path string, res *Result) (content, error) {
	// What is missing on the host is told before the work begins.
	for _, tool := range []string{"mke2fs", "debugfs"} {
		if _, err := findTool(tool, "e2fsprogs"); err != nil {
			return nil, err
		}
	}
	dir, err := o.stage(ctx, work, path, res)
	if err != nil {
		return nil, err
	}
	inv, err := takeInventory(ctx, dir)
	if err != nil {
		return nil, err
	}
	size, err := inv.chooseSize(o.SizeBytes, o.Source)
	if err != nil {
		return nil, err
	}
	if _, err := work.path(""); err != nil {
		return nil, err
	}
	image, err := work.makeExt4(ctx, dir, inv, size)
	if err != nil {
		return nil, err
	}
	res.SourceBytes, res.Files = inv.sourceBytes, inv.inodes
	return openRaw(image)
}

// stage returns a directory with the files of the source.
func (o *ImportOptions) stage(ctx context.Context, work *workspace, path string, res *Result) (dir string, err error) {
	if res.Format == FormatDir {
		isDir, err := isDirectory(path)
		if err == nil && !isDir {
			err = block.Errorf(block.Invalid, "%s is no directory", path)
		}
		return path, err
	}
	t, err := work.newTree()
	if err != nil {
		return "", err
	}
	if o.SizeBytes > 0 {
		t.guard.limit, t.guard.object = o.SizeBytes, fmt.Sprintf("the %d bytes asked for", o.SizeBytes)
	}
	defer func() {
		if closeErr := t.close(); err == nil {
			err = closeErr
		}
		res.Warnings = append(res.Warnings, t.warnings...)
		if t.dropped > 0 {
			res.Warnings = append(res.Warnings, fmt.Sprintf("and %d more like these", t.dropped))
		}
	}()
	if res.Format == FormatTar {
		err = t.unpackTar(ctx, path, work.progress)
	} else {
		err = o.stageContainer(ctx, work, t, path, res)
	}
	if err != nil {
		return "", err
	}
	return t.dir, t.setTimes()
}

// stageContainer unpacks the layers of a container image.
func (o *ImportOptions) stageContainer(ctx context.Context, work *workspace, t *tree, path string, res *Result) error {
	want, err := newSelection(o.Image, o.Platform)
	if err != nil {
		return err
	}
	a, img, err := openContainer(ctx, work, path, res.Format, want)
	if err != nil {
		return err
	}
	defer func() { _ = a.close() }() // read only
	warning, err := img.checkPlatform(want)
	if err != nil {
		return err
	}
	if warning != "" {
		res.Warnings = append(res.Warnings, warning)
	}
	res.Image, res.Config = img.name, img.config
	return t.unpackLayers(ctx, a, img, work.progress)
}
