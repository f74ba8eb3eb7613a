package snapshotter

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/slackerd/slacker/stack"
)

func TestZTimes(t *testing.T) {
	f, r, programs := startStack(t)
	ref := pushImage(t, r, "layers", 8, 1<<20)
	first := startHost(t, f, programs, stack.V2, "")
	second := startHost(t, f, programs, stack.V2, "")
	b := time.Now()
	first.pull(ref)
	t.Logf("first pull %v", time.Since(b))
	b = time.Now()
	second.pull(ref)
	t.Logf("second pull %v", time.Since(b))
	second.ctr("images", "pull", "--plain-http", "--snapshotter", "overlayfs", ref)
	times := map[string][]time.Duration{}
	for i := range 12 {
		for _, sn := range []string{"slacker", "overlayfs"} {
			b = time.Now()
			second.ctr("run", "--rm", "--snapshotter", sn, "--net-host", ref, fmt.Sprintf("sn-%s-%d", sn, i), "/bin/busybox", "true")
			times[sn] = append(times[sn], time.Since(b))
		}
	}
	for k, v := range times {
		slices.Sort(v)
		t.Logf("%s: min %v median %v max %v", k, v[0], v[len(v)/2], v[len(v)-1])
	}
}
