package image

import (
	"context"

	"connectrpc.com/connect"

	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
)

// rpcError gives an answer of the admin API its kind, and says what was asked.
func rpcError(err error, doing string) error {
	return block.Wrap(block.Internal, api.FromConnect(err), doing)
}

// refuseExisting spares a long import into a snapshot that is there already.
func refuseExisting(ctx context.Context, client slackerv1connect.AdminServiceClient, volume, snapshot string) error {
	_, err := client.GetSnapshot(ctx, connect.NewRequest(&slackerv1.GetSnapshotRequest{Volume: volume, Snapshot: snapshot}))
	if err == nil {
		return block.Errorf(block.Exists, "import %s@%s: that snapshot exists already: want a name that is free", volume, snapshot)
	}
	if err = rpcError(err, "import "+volume+"@"+snapshot); block.Is(err, block.NotFound) {
		return nil
	}
	return err
}
