package snapshotter

import (
	"os/exec"
	"path"
	"strings"
	"testing"

	"github.com/slackerd/slacker/api"
	pusher "github.com/slackerd/slacker/image"
	"github.com/slackerd/slacker/naming"
	"github.com/slackerd/slacker/stack"
)

// TestPushIsASnapshot: what a running container has written, synced or not, is
// an image for another worker, and none of its data goes over the network. A
// snapshotter of another server refuses it.
func TestPushIsASnapshot(t *testing.T) {
	f, r, programs := startStack(t)
	for _, v := range newest(t, programs) {
		t.Run(string(v), func(t *testing.T) { pushIsASnapshot(t, f, r, programs, v) })
	}
}

func pushIsASnapshot(t *testing.T, f *testServer, r *stack.Registry, programs stack.Programs, v stack.Version) {
	t.Helper()
	ref := pushImage(t, r, "pushed-"+string(v), 2, 1<<20)
	first := startHost(t, f, programs, v, "")
	first.pull(ref)
	id := "push-" + path.Base(first.dir)
	first.ctr("run", "-d", "--snapshotter", "slacker", "--net-host", ref, id, "/bin/busybox", "sleep", "1000")
	first.ctr("tasks", "exec", "--exec-id", "w", id, "/bin/busybox", "sh", "-c", "echo changed >/data/last && /bin/busybox dd if=/dev/urandom of=/data/big bs=1M count=8")

	// ctr prints the command that would mount the container's root.
	mount := strings.Fields(first.ctr("snapshots", "--snapshotter", "slacker", "mounts", "/nowhere", id))
	dir := ""
	for _, word := range mount {
		if strings.HasPrefix(word, first.dir) {
			dir = word
		}
	}
	left, err := f.left(t)
	must(t, err)
	volume := ""
	for _, l := range left {
		if path.Base(l) == path.Base(dir) {
			volume = l
		}
	}
	if volume == "" {
		t.Fatalf("no volume of %q among %q", mount, left)
	}
	client, err := api.NewClient(f.apiURL)
	must(t, err)
	before := r.Counts()
	o := pusher.PushOptions{Volume: volume, Base: "docker://" + ref, Dest: "docker://" + r.Addr() + "/pushed-" + string(v) + ":2", Freeze: dir, Prefix: naming.DefaultPrefix, Client: client}
	_, err = pusher.Push(t.Context(), o)
	must(t, err)
	if moved := r.Counts().Sub(before); moved.Sent+moved.Received > 100<<10 {
		t.Errorf("the push moved %d and %d bytes, want less than 100 KiB", moved.Received, moved.Sent)
	}
	second := startHost(t, f, programs, v, "")
	next := r.Addr() + "/pushed-" + string(v) + ":2"
	second.pullsNothing(r, next, "changed")
	out := second.ctr("run", "--rm", "--snapshotter", "slacker", "--net-host", next, id+"-big", "/bin/busybox", "wc", "-c", "/data/big")
	if !strings.HasPrefix(strings.TrimSpace(out), "8388608 ") {
		t.Errorf("the file that was written last has %q, want 8 MiB", out)
	}
	first.ctr("tasks", "exec", "--exec-id", "after", id, "/bin/busybox", "touch", "/data/after") // it is not frozen any more
	refusesWithout(t, programs, v, next)
}

// refusesWithout pulls with overlayfs, which has no snapshot of the layer.
func refusesWithout(t *testing.T, programs stack.Programs, v stack.Version, ref string) {
	t.Helper()
	c, err := stack.StartContainerd(t.Context(), stack.ContainerdOptions{Programs: programs, Version: v, Dir: shortDir(t) + "/c"})
	must(t, err)
	defer c.Stop()
	out, err := exec.Command(c.CTR, "--address", c.Address, "images", "pull", "--plain-http", ref).CombinedOutput()
	if err == nil {
		t.Errorf("a worker without the server unpacked the image, want an error; it said %s", out)
	}
}
