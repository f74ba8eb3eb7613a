package image

import (
	"context"
	"errors"
	"strings"

	"connectrpc.com/connect"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
)

// rpcKinds maps the codes of the admin API to kinds.
var rpcKinds = map[connect.Code]block.Kind{
	connect.CodeNotFound:           block.NotFound,
	connect.CodeAlreadyExists:      block.Exists,
	connect.CodeInvalidArgument:    block.Invalid,
	connect.CodeOutOfRange:         block.Invalid,
	connect.CodeFailedPrecondition: block.Busy,
	connect.CodeAborted:            block.Fenced,
	connect.CodeResourceExhausted:  block.NoSpace,
	connect.CodeDataLoss:           block.Corrupt,
	connect.CodePermissionDenied:   block.Permission,
	connect.CodeUnauthenticated:    block.Permission,
	connect.CodeUnimplemented:      block.Unsupported,
	connect.CodeUnavailable:        block.Unavailable,
	connect.CodeDeadlineExceeded:   block.Unavailable,
	connect.CodeCanceled:           block.Unavailable,
}

// rpcError gives an answer of the admin API its kind, and says what was asked.
func rpcError(err error, doing string) error {
	text := err.Error()
	var ce *connect.Error
	if errors.As(err, &ce) {
		text = ce.Message()
	}
	return &block.Error{Kind: rpcKinds[connect.CodeOf(err)], Text: doing + ": " + strings.TrimSpace(text), Err: err}
}

// refuseExisting spares a long import into a snapshot that is there already.
func refuseExisting(ctx context.Context, client slackerv1connect.AdminServiceClient, volume, snapshot string) error {
	_, err := client.GetSnapshot(ctx, connect.NewRequest(&slackerv1.GetSnapshotRequest{Volume: volume, Snapshot: snapshot}))
	if err == nil {
		return block.Errorf(block.Exists, "import %s@%s: that snapshot exists already: want a name that is free", volume, snapshot)
	}
	if connect.CodeOf(err) == connect.CodeNotFound {
		return nil
	}
	return rpcError(err, "import "+volume+"@"+snapshot)
}
