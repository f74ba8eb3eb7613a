package snapshotter

import (
	"context"
	"crypto/tls"
	"encoding/binary"

	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
)

// The superblock of ext4, and what of it is read: a file system that was
// unmounted or frozen has written its counts there.
const (
	superOffBytes = 1024
	superBytes    = 1024
	superMagic    = 0xef53
)

// Usage returns what a snapshot takes beyond its parent (N8).
func (s *Snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	u, err := s.usage(ctx, key)
	return u, toContainerd(err)
}

func (s *Snapshotter) usage(ctx context.Context, key string) (u snapshots.Usage, err error) {
	r, err := s.store.get(key)
	if err != nil {
		return u, err
	}
	below, err := s.inodesOf(ctx, r.Parent)
	if err != nil {
		return u, err
	}
	var all int64
	if r.Kind == snapshots.KindCommitted {
		u.Size = r.UsageBytes
		all, err = s.inodesOf(ctx, key)
	} else {
		var n uint64
		if n, err = s.server.headBytes(ctx, r.Volume); err == nil {
			u.Size = int64(n) //nolint:gosec // at most 256 TiB
			all, err = s.inodesOfVolume(ctx, r.Volume)
		}
	}
	u.Inodes = max(0, all-below) // a layer may remove more than it adds
	return u, err
}

// inodesOf is how many inodes the file system of a committed snapshot has in
// use, those of its parents too; of none, those of the empty one. It is asked of
// the server once.
func (s *Snapshotter) inodesOf(ctx context.Context, name string) (int64, error) {
	if name == "" {
		place, err := s.base.ensure(ctx)
		if err != nil {
			return 0, err
		}
		return s.readInodes(ctx, place)
	}
	r, err := s.store.get(name)
	if err != nil || r.Inodes > 0 {
		return r.inodes(), err
	}
	n, err := s.readInodes(ctx, r.Place)
	if err != nil {
		return 0, err
	}
	return n, s.store.change(name, func(r *record) { r.Inodes = n })
}

// inodesOfVolume is inodesOf of a working volume, as it is now.
func (v *volumes) inodesOfVolume(ctx context.Context, volume string) (int64, error) {
	if n, mounted, err := v.devices.inodes(volume); mounted || err != nil {
		return n, err
	}
	return v.readInodes(ctx, volume)
}

// readInodes reads the superblock of a file system at the server.
func (v *volumes) readInodes(ctx context.Context, export string) (int64, error) {
	addr, err := v.server.nbdAddress(ctx)
	if err != nil {
		return 0, err
	}
	var secure func() (*tls.Config, error)
	if files := v.o.Worker.TLS; !files.Empty() {
		secure = files.Client
	}
	conn, err := nbdclient.Dial(ctx, addr, export, nbdclient.Options{DialTimeout: v.o.Timeout, TLS: secure})
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Disconnect() }() // it has been read
	super := make([]byte, superBytes)
	if err := conn.ReadAt(ctx, super, superOffBytes); err != nil {
		return 0, err
	}
	if magic := binary.LittleEndian.Uint16(super[0x38:]); magic != superMagic {
		return 0, block.Errorf(block.Corrupt, "%s holds no ext4: the superblock begins with %#x, want %#x", export, magic, superMagic)
	}
	return int64(binary.LittleEndian.Uint32(super)) - int64(binary.LittleEndian.Uint32(super[0x10:])), nil
}
