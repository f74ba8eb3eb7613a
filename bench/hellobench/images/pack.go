package images

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/image"
)

// pack writes a tree as a compressed layer, and returns its digests. A tree
// that overlayfs made has its signs for what was removed; they become
// whiteouts.
func pack(tree, blob string, epoch int64) (*builtLayer, error) {
	b := &builtLayer{Epoch: epoch}
	layer, err := image.PackLayer(blob, types.OCILayer, time.Unix(epoch, 0), func(out *image.LayerWriter) error {
		err := addTree(out, tree)
		b.FileBytes = int64(out.Bytes())
		return errors.Join(err, out.Close())
	})
	if err != nil {
		return nil, err
	}
	var errs [3]error
	b.Digest, errs[0] = layer.Digest()
	b.DiffID, errs[1] = layer.DiffID()
	b.SizeBytes, errs[2] = layer.Size()
	return b, errors.Join(errs[:]...)
}

// addTree adds all of a tree in the order of names.
func addTree(layer *image.LayerWriter, tree string) error {
	return filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		if d.Type()&fs.ModeCharDevice != 0 {
			if gone, err := isWhiteout(path); gone || err != nil {
				return errors.Join(err, layer.Whiteout(name))
			}
		}
		if err := layer.Add(path, name); err != nil {
			return err
		}
		if d.IsDir() && isOpaque(path) {
			return layer.Opaque(name)
		}
		return nil
	})
}

// isWhiteout says whether overlayfs has removed the name in this layer.
func isWhiteout(path string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return false, err
	}
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0, nil
}

// isOpaque says whether overlayfs hides what layers below have in a directory.
func isOpaque(dir string) bool {
	value := make([]byte, 8)
	n, err := unix.Lgetxattr(dir, "trusted.overlay.opaque", value)
	return err == nil && n == 1 && value[0] == 'y'
}

// installedVersions reads which packages dpkg has in a tree. It is nil where the
// tree changes none.
func installedVersions(tree string) (map[string]string, error) {
	f, err := os.Open(filepath.Join(tree, "var/lib/dpkg/status"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	versions := map[string]string{}
	var name string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ": ")
		switch key {
		case "Package":
			name = value
		case "Version":
			versions[name] = value
		}
	}
	return versions, lines.Err()
}

// releaseDate is when the archive behind apt's lists was last changed.
func releaseDate(lists string) (int64, error) {
	files, err := filepath.Glob(filepath.Join(lists, "*InRelease"))
	if err != nil {
		return 0, err
	}
	var newest int64
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(data)) {
			date, ok := strings.CutPrefix(strings.TrimSpace(line), "Date: ")
			if !ok {
				continue
			}
			at, err := time.Parse("Mon, 2 Jan 2006 15:04:05 MST", date)
			if err != nil {
				return 0, err
			}
			newest = max(newest, at.Unix())
			break
		}
	}
	return newest, nil
}
