package snapshotter

import (
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/filters"
)

// fields makes a snapshot's fields known to filters.
func fields(i snapshots.Info) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		if len(path) == 0 {
			return "", false
		}
		switch path[0] {
		case "kind":
			switch i.Kind {
			case snapshots.KindActive:
				return "active", true
			case snapshots.KindView:
				return "view", true
			case snapshots.KindCommitted:
				return "committed", true
			}
		case "name":
			return i.Name, true
		case "parent":
			return i.Parent, true
		case "labels":
			if len(path) > 1 {
				v, ok := i.Labels[path[1]]
				return v, ok
			}
		}
		return "", false
	})
}
