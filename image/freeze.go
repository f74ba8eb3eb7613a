package image

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

const (
	fiFreeze = 0xc0045877 // FIFREEZE of linux/fs.h
	fiThaw   = 0xc0045878 // FITHAW
)

// whileFrozen freezes and calls fn with the value of a channel. Where that is not
// there yet it thaws, waits for it and freezes again, when little is left to write
// out: whoever is frozen waits for no more than the freezing and fn.
func whileFrozen[T any](ctx context.Context, freeze func() (thaw func() error, err error), value <-chan T, fn func(T) error) error {
	thaw, err := freeze()
	if err != nil {
		return err
	}
	select {
	case v := <-value:
		return errors.Join(fn(v), thaw())
	default:
	}
	if err := thaw(); err != nil {
		return err
	}
	select {
	case v := <-value:
		if thaw, err = freeze(); err != nil {
			return err
		}
		return errors.Join(fn(v), thaw())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// freeze writes out all of a file system, and lets nothing be written to it until it
// is thawed; without a directory of it nothing is done.
func freeze(dir string) (thaw func() error, err error) {
	if dir == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, openError(dir, err)
	}
	if err := unix.IoctlSetInt(int(f.Fd()), fiFreeze, 0); err != nil {
		_ = f.Close() // read only
		return nil, block.Errorf(block.KindOfFile(err), "freeze %s: %w", dir, err)
	}
	return func() error {
		defer func() { _ = f.Close() }() // read only
		if err := unix.IoctlSetInt(int(f.Fd()), fiThaw, 0); err != nil {
			return block.Errorf(block.IO, "thaw %s, which stays frozen until fsfreeze -u: %w", dir, err)
		}
		return nil
	}, nil
}
