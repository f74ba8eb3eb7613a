package image

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// mounted runs f with disk images mounted at directories, in a mount namespace
// that ends with the thread that f runs on: nothing stays mounted, however f or
// the process ends. f must do its work on the goroutine that it is called on.
// The images may be changed: a journal is replayed.
func mounted(ctx context.Context, images map[string]string, f func() error) error {
	if os.Geteuid() != 0 {
		return block.Errorf(block.Permission, "reading the files of an image needs root, to mount it: run it with sudo")
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		result <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return block.Errorf(block.IO, "make a mount namespace: %w", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return block.Errorf(block.IO, "make a mount namespace private: %w", err)
			}
			for dir, img := range images {
				out, err := exec.CommandContext(ctx, "mount", "-o", "loop,noatime,nodev,nosuid,noexec", img, dir).CombinedOutput()
				if err != nil {
					return block.Errorf(block.Invalid, "mount the image, want a file system without partitions: %w: %.300s", err, strings.TrimSpace(string(out)))
				}
				defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }() // frees the loop device at once
			}
			return f()
		}()
	}()
	return <-result
}
