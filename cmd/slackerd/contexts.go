package main

import (
	"context"
	"strings"

	"github.com/slackerd/slacker/access"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/volume"
)

// The metadata contexts of Slacker, see nbdserver/PROTOCOL.md: what differs from
// a snapshot.
const (
	namespace    = "x-slacker:"
	dirtyContext = namespace + "dirty:"
	dirtyFlag    = 1
)

var (
	_ nbdserver.ContextBackend = backend{}
	_ nbdserver.ContextDevice  = (*device)(nil)
)

// contexts is what a device needs to open its contexts.
type contexts struct {
	b    backend
	conn nbdserver.Conn
}

// Contexts returns the contexts of an export that match a query.
func (b backend) Contexts(ctx context.Context, export, query string, conn nbdserver.Conn) ([]string, error) {
	name, dirty := strings.CutPrefix(query, dirtyContext)
	if !dirty && query != "" && query != namespace {
		return nil, nil
	}
	if _, err := b.allow(export, conn.Identity); err != nil {
		return nil, err
	}
	target, _, err := b.store.ExportTarget(export)
	if err != nil {
		return nil, err
	}
	switch {
	case !dirty:
		return []string{dirtyContext}, nil
	case name != "":
		if _, err := b.base(target, name, conn); err != nil {
			return nil, err
		}
		return []string{query}, nil
	}
	of, _, _ := strings.Cut(target, "@")
	snapshots, err := b.store.Snapshots(ctx, of)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(snapshots))
	for i, s := range snapshots {
		names[i] = dirtyContext + s.Name
	}
	return names, nil
}

// base returns the snapshot that a context compares target with: SNAPSHOT of the
// same volume, or VOLUME@SNAPSHOT, which the client has to be allowed to read.
func (b backend) base(target, name string, conn nbdserver.Conn) (string, error) {
	if !strings.Contains(name, "@") {
		of, _, _ := strings.Cut(target, "@")
		name = of + "@" + name
	}
	if _, _, err := block.SplitSnapshot(name); err != nil {
		return "", err
	}
	if b.policy != nil {
		if err := b.policy.Check(conn.Identity, access.Read, name); err != nil {
			return "", err
		}
	}
	_, _, err := b.store.ExportTarget(name)
	return name, err
}

// Context opens a context that Contexts named.
func (d *device) Context(ctx context.Context, name string) (nbdserver.MetaContext, error) {
	target, err := d.contexts.b.base(d.User().Target, strings.TrimPrefix(name, dirtyContext), d.contexts.conn)
	if err != nil {
		return nil, err
	}
	base, err := d.contexts.b.store.OpenBase(ctx, target, d.contexts.conn.Remote)
	if err != nil {
		return nil, err
	}
	d.bases = append(d.bases, base)
	return dirty{d.Device, base}, nil
}

// dirty is an open context: what of a device differs from a snapshot.
type dirty struct {
	d    *volume.Device
	base *volume.Base
}

func (c dirty) Status(ctx context.Context, dst []nbdserver.Status, offBytes, lengthBytes uint64, maxExtents int) ([]nbdserver.Status, error) {
	runs, err := c.d.Changed(ctx, nil, c.base, offBytes, lengthBytes, maxExtents)
	for _, r := range runs {
		s := nbdserver.Status{LengthBytes: r.LengthBytes}
		if r.Differs {
			s.Flags = dirtyFlag
		}
		dst = append(dst, s)
	}
	return dst, err
}
