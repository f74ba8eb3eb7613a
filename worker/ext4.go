package worker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

const (
	mkfsProgram      = "mkfs.ext4"
	probeBytes       = 1 << 20 // looked at on both ends of a device
	ext4MagicOffset  = 1024 + 0x38
	ext4Magic        = 0xef53
	mkfsOutputBytes  = 400 // of its complaint, shown in an error
	mkfsExtended     = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
	mkfsFeatures     = "metadata_csum_seed" // a clone can change its UUID without rewriting metadata
	mountOptionsRead = "noload"             // a snapshot may hold a journal that was not replayed
)

// content is what a device holds, as far as its ends tell.
type content int

const (
	contentBlank content = iota
	contentExt4
	contentOther
)

func probe(device string) (content, error) {
	f, err := os.Open(device)
	if err != nil {
		return 0, block.Errorf(block.KindOfFile(err), "look at %s: %w", device, err)
	}
	defer func() { _ = f.Close() }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, block.Errorf(block.IO, "look at %s: %w", device, err)
	}
	head := make([]byte, min(size, probeBytes))
	tail := make([]byte, min(size, probeBytes))
	if err := errors.Join(readFull(f, head, 0), readFull(f, tail, size-int64(len(tail)))); err != nil {
		return 0, block.Errorf(block.IO, "look at %s: %w", device, err)
	}
	if len(head) >= ext4MagicOffset+2 && binary.LittleEndian.Uint16(head[ext4MagicOffset:]) == ext4Magic {
		return contentExt4, nil
	}
	zero := make([]byte, probeBytes)
	if bytes.Equal(head, zero[:len(head)]) && bytes.Equal(tail, zero[:len(tail)]) {
		return contentBlank, nil
	}
	return contentOther, nil
}

func readFull(f *os.File, p []byte, off int64) error {
	_, err := f.ReadAt(p, off)
	return err
}

// checkMkfs reports whether mkfs.ext4 is there.
func checkMkfs() (string, error) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		path := filepath.Join(dir, mkfsProgram)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", block.Errorf(block.Unsupported, "%s is missing: install the Debian package e2fsprogs", mkfsProgram)
}

// mkfs makes an ext4 file system. The caller has seen that the device is blank.
func mkfs(ctx context.Context, device string) error {
	path, err := checkMkfs()
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, path, "-q", "-F", "-E", mkfsExtended, "-O", mkfsFeatures, device).CombinedOutput()
	if err != nil {
		text := strings.Join(strings.Fields(string(out)), " ")
		return block.Errorf(block.IO, "make a file system on %s: %.*s: %w", device, mkfsOutputBytes, text, err)
	}
	return nil
}

// mountExt4 mounts device at dir.
func mountExt4(device, dir string, readOnly bool) error {
	flags, data := uintptr(0), ""
	if readOnly {
		flags, data = unix.MS_RDONLY, mountOptionsRead
	}
	err := unix.Mount(device, dir, "ext4", flags, data)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL):
		return block.Errorf(block.Invalid, "mount %s at %s: no ext4 file system on it (attach with --mkfs to make one on a blank volume)", device, dir)
	case errors.Is(err, unix.ENODEV):
		return block.Errorf(block.Unsupported, "mount %s at %s: the kernel has no ext4 (modprobe ext4)", device, dir)
	case errors.Is(err, unix.EPERM):
		return block.Errorf(block.Permission, "mount %s at %s: %w: this needs root (CAP_SYS_ADMIN)", device, dir, err)
	}
	return block.Errorf(block.IO, "mount %s at %s: %w", device, dir, err)
}

// unmount unmounts dir; lazily it always succeeds.
func unmount(dir string, lazy bool) error {
	flags := 0
	if lazy {
		flags = unix.MNT_DETACH
	}
	err := unix.Unmount(dir, flags|unix.UMOUNT_NOFOLLOW)
	switch err {
	case nil, unix.EINVAL, unix.ENOENT: // nothing is mounted there
		return nil
	case unix.EBUSY:
		return block.Errorf(block.Busy, "unmount %s: in use%s (detach --force detaches it from under them)", dir, users(dir))
	}
	return block.Errorf(block.IO, "unmount %s: %w", dir, err)
}

// syncDevice writes what the kernel caches of device, down to the server.
func syncDevice(device string) error {
	f, err := os.OpenFile(device, os.O_RDONLY, 0)
	if err != nil {
		return block.Errorf(block.KindOfFile(err), "sync %s: %w", device, err)
	}
	err = f.Sync()
	_ = f.Close()
	if err != nil {
		return block.Errorf(block.IO, "sync %s: %w", device, err)
	}
	return nil
}

// prepareMountDir makes dir if need be and refuses one in use.
func prepareMountDir(dir string) (made bool, err error) {
	info, err := os.Stat(dir)
	if errGone(err) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return false, block.Errorf(block.KindOfFile(err), "make the mount directory: %w", err)
		}
		return true, nil
	}
	if err != nil {
		return false, block.Errorf(block.KindOfFile(err), "mount directory: %w", err)
	}
	if !info.IsDir() {
		return false, block.Errorf(block.Invalid, "mount directory %s is not a directory", dir)
	}
	if mounted, err := isMounted(dir); err != nil || mounted {
		return false, joinLine(err, block.Errorf(block.Busy, "something is mounted at %s already", dir))
	}
	return false, nil
}
