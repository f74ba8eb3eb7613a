package snapshotter

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/slackerd/slacker/block"
)

// kinds says which of containerd's errors each kind of ours is.
var kinds = map[block.Kind]error{
	block.Internal:    errdefs.ErrInternal,
	block.Invalid:     errdefs.ErrInvalidArgument,
	block.NotFound:    errdefs.ErrNotFound,
	block.Exists:      errdefs.ErrAlreadyExists,
	block.Busy:        errdefs.ErrFailedPrecondition,
	block.NoSpace:     errdefs.ErrResourceExhausted,
	block.ReadOnly:    errdefs.ErrFailedPrecondition,
	block.Corrupt:     errdefs.ErrDataLoss,
	block.IO:          errdefs.ErrUnknown,
	block.Fenced:      errdefs.ErrAborted,
	block.Permission:  errdefs.ErrPermissionDenied,
	block.Unsupported: errdefs.ErrNotImplemented,
	block.Unavailable: errdefs.ErrUnavailable,
}

// toContainerd gives err the class that containerd acts on; nil stays nil.
func toContainerd(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("slacker: %w: %w", err, kinds[block.KindOf(err)])
}
