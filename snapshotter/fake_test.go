package snapshotter

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// noDevices is devices without any: volumes stay empty, at a server that is real.
type noDevices struct{}

func (noDevices) up(_ context.Context, volume string, _ bool) (string, error) {
	return "/nowhere/" + volume, nil
}
func (noDevices) format(context.Context, string) error { return nil }
func (noDevices) settled(_ context.Context, _ string, fn func() error) (bool, error) {
	return true, fn()
}
func (noDevices) down(context.Context, string) error { return nil }
func (noDevices) inodes(string) (int64, bool, error) { return 0, true, nil }
func (noDevices) thaw(string)                        {}
func (noDevices) takeFiles(string, string) []byte    { return nil }
func (noDevices) tellFiles(context.Context, string, string, []byte) error {
	return nil
}

// openWithout opens a snapshotter without devices. It is closed at the end.
func (f *testServer) openWithout(t *testing.T, change func(*Options)) *Snapshotter {
	t.Helper()
	o, err := f.options(filepath.Join(t.TempDir(), "root"))
	must(t, err)
	if change != nil {
		change(&o)
	}
	must(t, os.MkdirAll(o.Root, 0o755))
	s, err := openWith(o, noDevices{})
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// chainsOf unpacks layers of nothing, and returns the top's name.
func chainsOf(ctx context.Context, s *Snapshotter, run string, chains []string) (top string, err error) {
	for _, chain := range chains {
		labels := snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: chain})
		name, key := run+"/"+chain, run+"/extract "+chain
		if _, err = s.Prepare(ctx, key, top, labels); err == nil {
			err = s.Commit(ctx, name, key, labels)
		} else if errdefs.IsAlreadyExists(err) {
			name, err = s.store.childWithRef(top, chain)
		}
		if err != nil {
			return "", err
		}
		top = name
	}
	return top, nil
}
