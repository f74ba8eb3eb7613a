package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/slackerd/slacker/access"
	"github.com/slackerd/slacker/activity"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/volume"
)

// backend offers a store's volumes and snapshots as NBD exports
// to those whom the policy allows them.
type backend struct {
	store  *volume.Store
	policy *access.Policy
}

var _ nbdserver.Backend = backend{}

func (b backend) Open(ctx context.Context, name string, conn nbdserver.Conn, disconnect func(error)) (nbdserver.Device, error) {
	readOnly, err := b.allow(name, conn.Identity)
	if err != nil {
		return nil, err
	}
	var d *volume.Device
	switch {
	case conn.InfoOnly:
		d, err = b.store.OpenInfo(ctx, name, conn.Remote)
	case readOnly:
		d, err = b.store.OpenReadOnly(ctx, name, conn.Remote, disconnect)
	default:
		d, err = b.store.Open(ctx, name, conn.Remote, disconnect)
	}
	if err != nil {
		return nil, err
	}
	return holdWrites(&device{Device: d, contexts: contexts{b, conn}}), nil
}

// allow holds the opening of an export to the policy. A volume that somebody
// may only read is opened read-only, an attachment for writing is refused.
func (b backend) allow(name string, id access.Identity) (readOnly bool, err error) {
	if b.policy == nil {
		return false, nil
	}
	stated, _, attached := strings.Cut(name, ":")
	target, writable, err := b.store.ExportTarget(name)
	if err != nil {
		// Whoever may not know of a volume does not learn whether it exists.
		if denied := b.policy.Check(id, access.Read, stated); denied != nil {
			return false, denied
		}
		return false, err
	}
	if err := b.policy.Check(id, access.Read, target); err != nil || !writable {
		return true, err
	}
	err = b.policy.Check(id, access.Write, target)
	if err != nil && !attached {
		return true, nil
	}
	return false, err
}

func (b backend) List(ctx context.Context, conn nbdserver.Conn) ([]nbdserver.Export, error) {
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
		if !b.policy.May(conn.Identity, access.Read, v.Name) {
			continue
		}
		exports = append(exports, nbdserver.Export{Name: v.Name, Description: "volume"})
	}
	for _, s := range snapshots {
		if !b.policy.May(conn.Identity, access.Read, s.Volume) {
			continue
		}
		exports = append(exports, nbdserver.Export{Name: s.Volume + "@" + s.Name, Description: "snapshot"})
	}
	return exports, nil
}

// device is a volume.Device in the words of nbdserver.
type device struct {
	*volume.Device
	contexts contexts
	bases    []*volume.Base // of the contexts that are open
}

// Close ends the use of the device and of what it is compared with.
func (d *device) Close() error {
	err := d.Device.Close()
	for _, b := range d.bases {
		err = errors.Join(err, b.Close())
	}
	return err
}

// identify tells metrics who uses a device of backend.
func identify(dev nbdserver.Device) (who func() activity.Identity, ok bool) {
	d, ok := dev.(*device)
	if !ok {
		return nil, false
	}
	return func() activity.Identity {
		u := d.User()
		return activity.Identity{Key: fmt.Sprintf("%v@%s", u.Volume, u.Snapshot), Target: u.Target, Attachment: u.Attachment, Worker: u.Worker}
	}, true
}

func (d *device) Info() nbdserver.Info { return nbdserver.Info(d.Device.Info()) }

func (d *device) Extents(ctx context.Context, dst []nbdserver.Extent, offBytes, lengthBytes uint64, maxExtents int) ([]nbdserver.Extent, error) {
	es, err := d.Device.Extents(ctx, nil, offBytes, lengthBytes, maxExtents)
	for _, e := range es {
		dst = append(dst, nbdserver.Extent(e))
	}
	return dst, err
}
