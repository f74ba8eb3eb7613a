package main

import (
	"context"

	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/volume"
)

// backend offers a store's volumes and snapshots as NBD exports.
type backend struct{ store *volume.Store }

var _ nbdserver.Backend = backend{}

func (b backend) Open(ctx context.Context, name string, conn nbdserver.Conn, disconnect func(error)) (nbdserver.Device, error) {
	var d *volume.Device
	var err error
	if conn.InfoOnly {
		d, err = b.store.OpenInfo(ctx, name, conn.Remote)
	} else {
		d, err = b.store.Open(ctx, name, conn.Remote, disconnect)
	}
	if err != nil {
		return nil, err
	}
	return holdWrites(device{d}), nil
}

func (b backend) List(ctx context.Context) ([]nbdserver.Export, error) {
	volumes, err := b.store.List(ctx, "")
	if err != nil {
		return nil, err
	}
	snapshots, err := b.store.Snapshots(ctx, "")
	if err != nil {
		return nil, err
	}
	exports := make([]nbdserver.Export, 0, len(volumes)+len(snapshots))
	for _, v := range volumes {
		exports = append(exports, nbdserver.Export{Name: v.Name, Description: "volume"})
	}
	for _, s := range snapshots {
		exports = append(exports, nbdserver.Export{Name: s.Volume + "@" + s.Name, Description: "snapshot"})
	}
	return exports, nil
}

// device is a volume.Device in the words of nbdserver.
type device struct{ *volume.Device }

func (d device) Info() nbdserver.Info { return nbdserver.Info(d.Device.Info()) }

func (d device) Extents(ctx context.Context, dst []nbdserver.Extent, offBytes, lengthBytes uint64, maxExtents int) ([]nbdserver.Extent, error) {
	es, err := d.Device.Extents(ctx, nil, offBytes, lengthBytes, maxExtents)
	for _, e := range es {
		dst = append(dst, nbdserver.Extent(e))
	}
	return dst, err
}
