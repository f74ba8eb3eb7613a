package image

import (
	"context"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/naming"
)

// PruneOptions say which chains go.
type PruneOptions struct {
	// Prefix is what the names of the snapshotter's volumes begin with.
	Prefix naming.Prefix
	// Unused is for how long no worker must have had a chain.
	Unused time.Duration
	DryRun bool
	Client slackerv1connect.AdminServiceClient
	// Progress, if not nil, is told how many of the unused chains were looked at.
	Progress func(done, total int)
}

// PrunedChain is a chain that nobody has.
type PrunedChain struct {
	Volume  string
	Created time.Time
	// LastUsed is when it was made, or when the last volume on it went.
	LastUsed time.Time
	// FreedBytes is what its going freed, after those that went before it; 0 in
	// a dry run.
	FreedBytes uint64
}

// PruneResult says what was done.
type PruneResult struct {
	Chains []PrunedChain // the youngest first: no chain goes before one on it
	// FreedBytes is what all of them freed, or would free, together.
	FreedBytes uint64
	InUse      int // chains that stay because workers have them
	Recent     int // chains that stay because they were used lately
}

// Prune deletes the chains of image layers that nobody has had for a time. The
// server looks again at each when it deletes it, so that a worker that begins to
// use one at the same moment keeps it, or finds that it has none.
func Prune(ctx context.Context, o PruneOptions) (PruneResult, error) {
	var res PruneResult
	if o.Unused < 0 || o.Prefix == "" {
		return res, block.Errorf(block.Invalid, "prune: unused %v, prefix %q: want a time of 0 or more, and a prefix", o.Unused, o.Prefix)
	}
	since := time.Now().Add(-o.Unused)
	unused, err := o.candidates(ctx, since, &res)
	if err != nil || len(unused) == 0 {
		return res, err
	}
	if o.DryRun {
		res.Chains = unused
		res.FreedBytes, err = o.wouldFree(ctx, unused)
		return res, err
	}
	for i, c := range unused {
		freed, err := o.wouldFree(ctx, []PrunedChain{c})
		if err == nil {
			_, err = o.Client.DeleteVolume(ctx, connect.NewRequest(&slackerv1.DeleteVolumeRequest{Name: c.Volume, UnusedSince: timestamppb.New(since)}))
			err = rpcError(err, "prune "+c.Volume)
		}
		switch {
		case err == nil:
			c.FreedBytes = freed
			res.FreedBytes += freed
			res.Chains = append(res.Chains, c)
		case block.Is(err, block.Busy): // somebody has begun to use it
			res.InUse++
		case !block.Is(err, block.NotFound): // another prune was first
			return res, err
		}
		if o.Progress != nil {
			o.Progress(i+1, len(unused))
		}
	}
	return res, nil
}

// candidates lists the chains that nobody has, the youngest first.
func (o *PruneOptions) candidates(ctx context.Context, since time.Time, res *PruneResult) (unused []PrunedChain, err error) {
	volumes, err := o.Client.ListVolumes(ctx, connect.NewRequest(&slackerv1.ListVolumesRequest{}))
	if err != nil {
		return nil, rpcError(err, "prune")
	}
	snapshots, err := o.Client.ListSnapshots(ctx, connect.NewRequest(&slackerv1.ListSnapshotsRequest{}))
	if err != nil {
		return nil, rpcError(err, "prune")
	}
	used := map[string]bool{}
	for _, v := range volumes.Msg.GetVolumes() {
		if from := naming.VolumeOf(v.GetOrigin()); from != v.GetName() {
			used[from] = true
		}
	}
	chains := map[string]PrunedChain{}
	for _, sn := range snapshots.Msg.GetSnapshots() {
		if !strings.HasPrefix(sn.GetVolume(), o.Prefix.Chains()) {
			continue
		}
		c := chains[sn.GetVolume()]
		c.Volume, c.Created = sn.GetVolume(), sn.GetCreated().AsTime()
		for _, at := range []*timestamppb.Timestamp{sn.GetCreated(), sn.GetLastUsed()} {
			if at.IsValid() && at.AsTime().After(c.LastUsed) {
				c.LastUsed = at.AsTime()
			}
		}
		chains[c.Volume] = c
	}
	for _, c := range chains {
		switch {
		case used[c.Volume]:
			res.InUse++
		case !c.LastUsed.Before(since):
			res.Recent++
		default:
			unused = append(unused, c)
		}
	}
	// A chain was made after those below it.
	slices.SortFunc(unused, func(a, b PrunedChain) int {
		if c := b.Created.Compare(a.Created); c != 0 {
			return c
		}
		return strings.Compare(a.Volume, b.Volume)
	})
	return unused, nil
}

// wouldFree is what deleting all of them would free.
func (o *PruneOptions) wouldFree(ctx context.Context, chains []PrunedChain) (uint64, error) {
	var also []string
	for _, c := range chains[1:] {
		also = append(also, c.Volume)
	}
	answer, err := o.Client.DeleteVolume(ctx, connect.NewRequest(&slackerv1.DeleteVolumeRequest{
		Name: chains[0].Volume, WithSnapshots: true, DryRun: true, Also: also}))
	if err != nil {
		return 0, rpcError(err, "prune "+chains[0].Volume)
	}
	return answer.Msg.GetWouldFreeBytes(), nil
}
