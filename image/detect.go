package image

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/lima-vm/go-qcow2reader/image/qcow2"

	"github.com/slackerd/slacker/block"
)

// sniffBytes is how much of a file is looked at to tell its format.
const sniffBytes = 1024

// sectorBytes is what the size of a raw disk image is a multiple of.
const sectorBytes = 512

// foreign are formats that are refused by name instead of taken for raw.
var foreign = []struct{ magic, name string }{
	{"KDMV", "VMDK disk image"},
	{"# Disk DescriptorFile", "VMDK disk image"},
	{"vhdxfile", "VHDX disk image"},
	{"conectix", "VHD disk image"},
	{"<<< Oracle VM VirtualBox Disk Image >>>", "VDI disk image"},
	{"PK\x03\x04", "zip archive"},
	{"!<arch>\n", "ar archive"},
	{"hsqs", "squashfs image"},
}

// Detect tells the format of a file or directory by what it holds, never by
// its name.
func Detect(path string) (format string, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", openError(path, err)
	}
	if st.IsDir() {
		if _, err := os.Lstat(filepath.Join(path, ociLayoutFile)); err == nil {
			return FormatOCI, nil
		}
		return FormatDir, nil
	}
	f, err := openFile(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // read only
	head := make([]byte, sniffBytes)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", block.Errorf(block.IO, "read %s: %w", path, err)
	}
	head = head[:n]
	switch c := sniffCompression(head); {
	case c != compressionNone:
		return detectCompressed(f, path, c)
	case isTarHeader(head):
		return detectArchive(io.NewSectionReader(f, 0, 1<<62), path)
	case bytes.HasPrefix(head, []byte(qcow2.Magic)):
		return FormatQcow2, nil
	}
	for _, x := range foreign {
		if bytes.HasPrefix(head, []byte(x.magic)) {
			return "", block.Errorf(block.Unsupported, "%s is a %s: want one of raw, qcow2, tar, docker-archive, oci; for disk images: qemu-img convert -O qcow2 IN OUT", path, x.name)
		}
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", block.Errorf(block.IO, "size of %s: %w", path, err)
	}
	if size == 0 || size%sectorBytes != 0 {
		return "", block.Errorf(block.Invalid, "%s is no qcow2 image or tar archive, and its %d bytes are no multiple of %d as those of a raw disk image: say its format if it is one", path, size, sectorBytes)
	}
	return FormatRaw, nil
}

// isTarHeader reports whether head is the first block of a tar archive: it has
// the ustar magic, or is an older header whose checksum is right.
func isTarHeader(head []byte) bool {
	if len(head) < tarBlockBytes {
		return false
	}
	if string(head[257:262]) == "ustar" {
		return true
	}
	var want, have int
	digits := 0
	for i, c := range head[:tarBlockBytes] {
		if i >= 148 && i < 156 {
			if c >= '0' && c <= '7' {
				want = want*8 + int(c-'0')
				digits++
			}
			c = ' '
		}
		have += int(c)
	}
	return digits > 0 && head[0] != 0 && have == want
}
