package images

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/image"
)

// pack writes a tree as a compressed layer, and returns its digests. A tree
// that overlayfs made has its signs for what was removed; they become
// whiteouts.
func pack(tree, blob string, epoch int64) (b *builtLayer, err error) {
	f, err := os.Create(blob)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	packed := &countingHash{hash: sha256.New(), w: bufio.NewWriterSize(f, 1<<20)}
	zip, err := gzip.NewWriterLevel(packed, gzip.DefaultCompression)
	if err != nil {
		return nil, err
	}
	plain := &countingHash{hash: sha256.New(), w: zip}
	layer := image.NewLayerWriter(plain, time.Unix(epoch, 0))
	if err := addTree(layer, tree); err != nil {
		return nil, err
	}
	if err := errors.Join(layer.Close(), zip.Close(), packed.w.(*bufio.Writer).Flush()); err != nil {
		return nil, err
	}
	return &builtLayer{
		Digest: packed.sum(), DiffID: plain.sum(), SizeBytes: packed.bytes, FileBytes: int64(layer.Bytes()), Epoch: epoch,
	}, nil
}

// countingHash hashes and counts what passes.
type countingHash struct {
	hash  hash.Hash
	w     io.Writer
	bytes int64
}

func (c *countingHash) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.hash.Write(p[:n])
	c.bytes += int64(n)
	return n, err
}

func (c *countingHash) sum() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(c.hash.Sum(nil))}
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
