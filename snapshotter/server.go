package snapshotter

import (
	"context"

	"connectrpc.com/connect"

	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
)

// server is what the snapshotter asks of slackerd. Errors have a kind.
type server struct {
	api slackerv1connect.AdminServiceClient
}

// find describes the snapshot of a place; NotFound when it is not there.
func (s *server) find(ctx context.Context, place string) (layerBytes uint64, err error) {
	volume, snapshot, err := block.SplitSnapshot(place)
	if err != nil {
		return 0, err
	}
	answer, err := s.api.GetSnapshot(ctx, connect.NewRequest(&slackerv1.GetSnapshotRequest{Volume: volume, Snapshot: snapshot}))
	if err != nil {
		return 0, block.Wrap(block.Internal, api.FromConnect(err), "look for "+place)
	}
	return answer.Msg.GetSnapshot().GetLayerBytes(), nil
}

// publish makes the volume's state the snapshot place.
func (s *server) publish(ctx context.Context, volume, place string) (layerBytes uint64, err error) {
	newVolume, snapshot, err := block.SplitSnapshot(place)
	if err != nil {
		return 0, err
	}
	answer, err := s.api.Publish(ctx, connect.NewRequest(&slackerv1.PublishRequest{Volume: volume, NewVolume: newVolume, NewSnapshot: snapshot}))
	if err != nil {
		return 0, block.Wrap(block.Internal, api.FromConnect(err), "publish "+volume+" as "+place)
	}
	return answer.Msg.GetLayerBytes(), nil
}

func (s *server) clone(ctx context.Context, place, volume string) error {
	from, snapshot, err := block.SplitSnapshot(place)
	if err != nil {
		return err
	}
	_, err = s.api.CloneSnapshot(ctx, connect.NewRequest(&slackerv1.CloneSnapshotRequest{Volume: from, Snapshot: snapshot, NewVolume: volume}))
	if err != nil {
		return block.Wrap(block.Internal, api.FromConnect(err), "clone "+place)
	}
	return nil
}

func (s *server) create(ctx context.Context, volume string, sizeBytes uint64) error {
	_, err := s.api.CreateVolume(ctx, connect.NewRequest(&slackerv1.CreateVolumeRequest{Name: volume, SizeBytes: sizeBytes}))
	if err != nil {
		return block.Wrap(block.Internal, api.FromConnect(err), "make "+volume)
	}
	return nil
}

// headBytes is what a volume's newest layer holds.
func (s *server) headBytes(ctx context.Context, volume string) (uint64, error) {
	answer, err := s.api.GetVolume(ctx, connect.NewRequest(&slackerv1.GetVolumeRequest{Name: volume}))
	if err != nil {
		return 0, block.Wrap(block.Internal, api.FromConnect(err), "look at "+volume)
	}
	return answer.Msg.GetVolume().GetHeadBytes(), nil
}

// delete deletes a volume and its snapshots; one that is not there is fine.
func (s *server) delete(ctx context.Context, volume string) error {
	_, err := s.api.DeleteVolume(ctx, connect.NewRequest(&slackerv1.DeleteVolumeRequest{Name: volume, WithSnapshots: true}))
	if err = api.FromConnect(err); block.Is(err, block.NotFound) {
		return nil
	}
	return block.Wrap(block.Internal, err, "delete "+volume)
}

// nbdAddress is where the server's exports are.
func (s *server) nbdAddress(ctx context.Context) (string, error) {
	answer, err := s.api.GetStatus(ctx, connect.NewRequest(&slackerv1.GetStatusRequest{}))
	if err != nil {
		return "", block.Wrap(block.Internal, api.FromConnect(err), "ask for the server's address")
	}
	if len(answer.Msg.GetNbdAddresses()) == 0 {
		return "", block.Errorf(block.Unavailable, "the server states no NBD address")
	}
	return answer.Msg.GetNbdAddresses()[0], nil
}

func (s *server) list(ctx context.Context, prefix string) ([]string, error) {
	answer, err := s.api.ListVolumes(ctx, connect.NewRequest(&slackerv1.ListVolumesRequest{Prefix: prefix}))
	if err != nil {
		return nil, block.Wrap(block.Internal, api.FromConnect(err), "list "+prefix)
	}
	var names []string
	for _, v := range answer.Msg.GetVolumes() {
		names = append(names, v.GetName())
	}
	return names, nil
}
