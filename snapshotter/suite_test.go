package snapshotter

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
)

// TestSuite is containerd's own, on attached devices.
func TestSuite(t *testing.T) {
	needDevices(t)
	f := startServer(t)
	testsuite.SnapshotterSuite(t, "slacker", func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		s, err := f.open(root, nil)
		if err != nil {
			return nil, nil, err
		}
		return s, func() error {
			if err := s.Close(); err != nil {
				return err
			}
			// As after a restart.
			s, err := f.open(root, nil)
			if err != nil {
				return err
			}
			return emptyOut(s)
		}, nil
	})
}
