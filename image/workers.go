package image

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/naming"
)

// WorkersOptions say whose snapshotters to look at.
type WorkersOptions struct {
	// Prefix is what the names of the snapshotter's volumes begin with.
	Prefix naming.Prefix
	// Since is when the server last heard of one that is gone, at the latest.
	Since time.Time
	// Release deletes what those that are gone have and that holds nothing: their pins.
	Release bool
	Client  slackerv1connect.AdminServiceClient
}

// WorkerStore is the store of one worker's snapshotter.
type WorkerStore struct {
	Worker, Store string
	// LastHeard is when the server heard of it; zero: it is of a version that does
	// not say, and so never gone.
	LastHeard time.Time
	Gone      bool
	// Empty is how many volumes it has that hold nothing of their own, nearly all of
	// them pins of chains; Others are those of containers and private layers.
	Empty, Others int
	Released      int // of Empty

	empty, beats []string
}

// Workers lists the stores of snapshotters, those heard of last first, and releases
// what those that are gone keep from a prune.
func Workers(ctx context.Context, o WorkersOptions) ([]WorkerStore, error) {
	if o.Prefix == "" || o.Since.IsZero() {
		return nil, block.Errorf(block.Invalid, "workers: prefix %q, gone since %v: want both", o.Prefix, o.Since)
	}
	stores, err := o.list(ctx)
	if err != nil || !o.Release {
		return stores, err
	}
	for i := range stores {
		if stores[i].Gone {
			if err := o.release(ctx, &stores[i]); err != nil {
				return stores, err
			}
		}
	}
	return stores, nil
}

func (o *WorkersOptions) list(ctx context.Context) ([]WorkerStore, error) {
	answer, err := o.Client.ListVolumes(ctx, connect.NewRequest(&slackerv1.ListVolumesRequest{Prefix: o.Prefix.Work()}))
	if err != nil {
		return nil, rpcError(err, "list workers")
	}
	byName := map[string]*WorkerStore{}
	for _, v := range answer.Msg.GetVolumes() {
		worker, store, own, ok := o.Prefix.Own(v.GetName())
		if !ok {
			continue // somebody else's
		}
		w := byName[worker+"/"+store]
		if w == nil {
			w = &WorkerStore{Worker: worker, Store: store}
			byName[worker+"/"+store] = w
		}
		w.add(o.Prefix, own, v)
	}
	var stores []WorkerStore
	for _, w := range byName {
		w.Gone = !w.LastHeard.IsZero() && w.LastHeard.Before(o.Since)
		stores = append(stores, *w)
	}
	slices.SortFunc(stores, func(a, b WorkerStore) int {
		return cmp.Or(b.LastHeard.Compare(a.LastHeard), strings.Compare(a.Worker, b.Worker), strings.Compare(a.Store, b.Store))
	})
	return stores, nil
}

// add counts a volume of the store.
func (w *WorkerStore) add(prefix naming.Prefix, own string, v *slackerv1.Volume) {
	switch {
	case naming.IsBeat(own):
		w.beats = append(w.beats, v.GetName())
		if made := v.GetCreated().AsTime(); made.After(w.LastHeard) {
			w.LastHeard = made
		}
	case strings.HasPrefix(v.GetOrigin(), prefix.Chains()) && v.GetHeadBytes() == 0 && v.GetSnapshots() == 0 && v.GetAttachment() == nil:
		w.Empty++
		w.empty = append(w.empty, v.GetName())
	default:
		w.Others++
	}
}

// release deletes the pins of a store that is gone, and with nothing else left what
// tells of it. One that is heard of meanwhile pins anew what it has.
func (o *WorkersOptions) release(ctx context.Context, w *WorkerStore) error {
	names := w.empty
	if w.Others == 0 {
		names = slices.Concat(w.empty, w.beats)
	}
	for i, name := range names {
		_, err := o.Client.DeleteVolume(ctx, connect.NewRequest(&slackerv1.DeleteVolumeRequest{Name: name}))
		err = rpcError(err, "release "+name)
		switch {
		case block.Is(err, block.Busy), block.Is(err, block.NotFound): // it is in use after all, or gone
		case err != nil:
			return err
		case i < len(w.empty):
			w.Released++
		}
	}
	return nil
}
