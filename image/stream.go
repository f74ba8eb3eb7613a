package image

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"strings"

	"github.com/slackerd/slacker/block"
)

const (
	tarBlockBytes = 512

	// Names in container image archives.
	ociLayoutFile      = "oci-layout"
	ociIndexFile       = "index.json"
	dockerManifestFile = "manifest.json"
	dockerReposFile    = "repositories"
	ociBlobsDir        = "blobs"
)

// detectCompressed tells what a compressed file holds.
func detectCompressed(f *os.File, name string, c compression) (format string, err error) {
	plain, err := decompress(context.Background(), io.NewSectionReader(f, 0, 1<<62), c, name)
	if err != nil {
		return "", err
	}
	defer func() { _ = plain.Close() }() // read only
	r := bufio.NewReaderSize(plain, sniffBytes)
	head, err := r.Peek(tarBlockBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if !isTarHeader(head) {
		return "", block.Errorf(block.Unsupported, "%s is compressed with %s and holds no tar archive: decompress it first", name, c)
	}
	return detectArchive(r, name)
}

// detectArchive tells a container image from other tar archives. It reads on
// only as long as every name is one of a container image's.
func detectArchive(r io.Reader, name string) (format string, err error) {
	format = FormatTar
	tr := tar.NewReader(r)
	for entries := 0; entries < maxArchiveEntries; entries++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return format, nil
		}
		if err != nil {
			return "", tarError(err, name)
		}
		switch entry := path.Clean(h.Name); {
		case entry == dockerManifestFile:
			return FormatDockerArchive, nil
		case entry == ociLayoutFile:
			format = FormatOCI // unless a manifest.json follows
		case !isArchiveName(entry):
			return FormatTar, nil
		}
	}
	return format, nil
}

// isArchiveName reports whether a container image archive may hold an entry of
// that name.
func isArchiveName(name string) bool {
	if name == "." || name == ociIndexFile || name == dockerReposFile || name == ociBlobsDir || strings.HasPrefix(name, ociBlobsDir+"/") {
		return true
	}
	first, _, _ := strings.Cut(name, "/")
	for _, ending := range []string{".json", ".gz", ".tar"} {
		first = strings.TrimSuffix(first, ending)
	}
	return isHexDigest(strings.TrimPrefix(first, "sha256:"))
}

func isHexDigest(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// tarError gives an error of reading a tar archive its kind and place.
func tarError(err error, name string) error {
	var known *block.Error
	switch {
	case errors.As(err, &known), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return block.Errorf(block.Corrupt, "%s ends early: want the rest of the tar archive, got the end of the file", name)
	}
	return block.Errorf(block.Corrupt, "%s: damaged tar archive: %w", name, err)
}
