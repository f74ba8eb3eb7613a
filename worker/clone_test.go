package worker

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver"
)

// TestAttachClones clones and attaches in one go; after a failure of any step
// the clone is gone, and what is attached already is not cloned again.
func TestAttachClones(t *testing.T) {
	needFuse(t)
	f := newFakeServer(t, map[string]uint64{"image": testVolumeBytes})
	c := testConfig(t, f)
	o := fuseOptions(filepath.Join(t.TempDir(), "m"))
	o.Clone = "image@v1"
	exists := func() bool {
		exports, err := f.backend.List(context.Background(), nbdserver.Conn{})
		must(t, err)
		return len(exports) == 2
	}
	planned := errors.New("planned fault")
	for n := 0; ; n++ {
		count := 0
		c.fault = func(string) error {
			if count++; count == n+1 {
				return planned
			}
			return nil
		}
		_, err := testWorker(t, c).Attach(t.Context(), "v", o)
		if err == nil {
			break
		}
		if !errors.Is(err, planned) || exists() {
			t.Fatalf("step %d: %v; the clone is there: %v", n, err, exists())
		}
		nothingLeft(t, f, c.StateDir)
	}
	c.fault = func(string) error { return nil }
	w := testWorker(t, c)
	again, err := w.Attach(t.Context(), "v", o)
	if err != nil || !again.Already {
		t.Fatalf("attached again: %+v, %v", again, err)
	}
	_, err = w.Detach(t.Context(), "v", false)
	must(t, err)
	if !exists() {
		t.Error("detach deleted the clone")
	}
	o.ReadOnly, o.Mkfs = true, false
	if _, err := w.Attach(t.Context(), "v", o); !block.Is(err, block.Invalid) {
		t.Errorf("a read-only clone: %v", err)
	}
}
