package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

const (
	loopControl  = "/dev/loop-control"
	maxLoopTries = 64 // others take loop devices too
	// readAheadBytes is what the kernel reads ahead at most, also around a page of
	// a program that is run. Its own choice, twice the largest request, is 2.5 MiB on
	// recent ones: then most of what is read of an image is never used.
	readAheadBytes = 128 << 10
)

// setUpLoop puts a free loop device on file, with direct I/O, and returns its
// path.
func setUpLoop(file string, readOnly bool) (string, error) {
	flags := os.O_RDWR
	config := unix.LoopConfig{Size: 512}
	config.Info.Flags = unix.LO_FLAGS_DIRECT_IO
	if readOnly {
		flags = os.O_RDONLY
		config.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], file)
	backing, err := os.OpenFile(file, flags, 0)
	if err != nil {
		return "", block.Errorf(block.KindOfFile(err), "set up a loop device: %w", err)
	}
	defer func() { _ = backing.Close() }()
	config.Fd = uint32(backing.Fd())
	control, err := os.OpenFile(loopControl, os.O_RDWR, 0)
	if err != nil {
		return "", loopControlError(err)
	}
	defer func() { _ = control.Close() }()
	for range maxLoopTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", block.Errorf(block.Unsupported, "find a free loop device: %w", err)
		}
		device := fmt.Sprintf("/dev/loop%d", n)
		err = configureLoop(device, &config)
		if err == nil {
			return device, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return "", block.Errorf(block.IO, "set up %s on %s: %w", device, file, err)
		}
	}
	return "", block.Errorf(block.Busy, "set up a loop device: %d in a row were taken by others", maxLoopTries)
}

func loopControlError(err error) error {
	if errGone(err) {
		return block.Errorf(block.Unsupported, "%s is missing: load the kernel module loop (modprobe loop), or give the container the device", loopControl)
	}
	return block.Errorf(block.KindOfFile(err), "set up a loop device: %w", err)
}

func configureLoop(device string, config *unix.LoopConfig) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.IoctlLoopConfigure(int(f.Fd()), config); err != nil {
		return err
	}
	// A device that reads ahead more works as well.
	_ = unix.IoctlSetInt(int(f.Fd()), unix.BLKRASET, readAheadBytes/512)
	return nil
}

// loopOf returns the loop device on file, or "".
func loopOf(file string) (string, error) {
	devices, err := os.ReadDir("/sys/block")
	if err != nil {
		return "", block.Errorf(block.KindOfFile(err), "list loop devices: %w", err)
	}
	for _, d := range devices {
		if !strings.HasPrefix(d.Name(), "loop") {
			continue
		}
		b, err := os.ReadFile("/sys/block/" + d.Name() + "/loop/backing_file")
		if err != nil {
			continue // not in use
		}
		backing := strings.TrimSuffix(strings.TrimSpace(string(b)), " (deleted)")
		// Once the file system is unmounted below the device, the kernel shows the
		// path from that file system's root.
		if backing == file || backing == "/"+filepath.Base(file) {
			return "/dev/" + d.Name(), nil
		}
	}
	return "", nil
}

// clearLoop takes the loop device off file and waits until it is gone, for at
// most limit. What has it open keeps it alive.
func clearLoop(ctx context.Context, file string, limit time.Duration) error {
	device, err := loopOf(file)
	if err != nil || device == "" {
		return err
	}
	f, err := os.OpenFile(device, os.O_RDONLY, 0)
	if err != nil {
		return block.Errorf(block.KindOfFile(err), "clear %s: %w", device, err)
	}
	err = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
	_ = f.Close()
	if err != nil && err != unix.ENXIO {
		return block.Errorf(block.Busy, "clear %s: %w", device, err)
	}
	gone := func() (bool, error) {
		now, err := loopOf(file)
		return now != device, err
	}
	if err := awaitFor(ctx, limit, gone); err != nil {
		return block.Errorf(block.Busy, "%s is still in use%s: %w", device, users(device), err)
	}
	return nil
}

// await is awaitFor the usual time.
func await(ctx context.Context, ok func() (bool, error)) error {
	return awaitFor(ctx, settleTimeout, ok)
}

// awaitFor polls ok until it holds, for at most limit: the kernel tells nobody
// when these things have gone.
func awaitFor(ctx context.Context, limit time.Duration, ok func() (bool, error)) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(2 * time.Millisecond) {
		done, err := ok()
		switch {
		case err != nil || done:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Now().After(deadline):
			return fmt.Errorf("waited %v in vain", limit)
		}
	}
}
