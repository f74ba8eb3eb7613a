package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slackerd/slacker/access"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
	"github.com/slackerd/slacker/volume"
)

// A volume, and a clone that has its data from a snapshot, keep the contract
// that the NBD server has with its devices.
func TestVolumesConform(t *testing.T) {
	for _, kind := range []string{"volume", "clone"} {
		t.Run(kind, func(t *testing.T) {
			nbdtest.Conform(t, func(t *testing.T) nbdtest.Opener {
				s, err := volume.Open(volume.Options{Dir: t.TempDir(), PageCacheBytes: 1})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
				ctx := context.Background()
				_, err = s.Create(ctx, "volume", 48<<20)
				if err == nil && kind == "clone" {
					if _, err = s.Snapshot(ctx, "volume", "s"); err == nil {
						_, err = s.Clone(ctx, "volume", "s", "clone")
					}
				}
				if err != nil {
					t.Fatal(err)
				}
				return func() nbdserver.Device {
					d, err := backend{store: s}.Open(ctx, kind, nbdserver.Conn{}, func(error) {})
					if err != nil {
						panic(err) // may be called from any goroutine
					}
					return d
				}
			})
		})
	}
}

// tool runs a client that nobody here wrote.
func tool(t *testing.T, debianPackage, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed (Debian package %s)", name, debianPackage)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Clients nobody here wrote work on volumes, snapshots and clones.
func TestOtherClients(t *testing.T) {
	dir := shortDir(t)
	p := startServer(t, command(t, "serve", "--data-dir", filepath.Join(dir, "data"), "--nbd-listen", unixAddr(dir, "n"), "--api-listen", "tcp://127.0.0.1:0"))
	p.create("v") // 64 MiB
	uri := func(export string) string {
		return fmt.Sprintf("nbd+unix:///%s?socket=%s", export, filepath.Join(dir, "n"))
	}
	image := filepath.Join(dir, "image")
	data := make([]byte, 64<<20)
	copy(data[3<<20:], bytes.Repeat(pattern(7), 80))
	if err := os.WriteFile(image, data, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "libnbd-bin", "nbdcopy", image, uri("v"))
	tool(t, "qemu-utils", "qemu-img", "compare", "-f", "raw", "-F", "raw", image, uri("v"))
	p.snapshotAndClone("v", "s", "c")
	tool(t, "qemu-utils", "qemu-img", "compare", "-f", "raw", "-F", "raw", image, uri("v@s"))
	if out := tool(t, "libnbd-bin", "nbdinfo", "--map", uri("c")); !strings.Contains(out, "hole") || !strings.Contains(out, "data") {
		t.Errorf("the map of the clone shows no hole or no data:\n%s", out)
	}
	if out := tool(t, "qemu-utils", "qemu-img", "map", "--output=json", "-f", "raw", uri("c")); !strings.Contains(out, `"start": 3145728`) {
		t.Errorf("qemu-img's map of the clone has no run at 3 MiB:\n%s", out)
	}
	tool(t, "qemu-utils", "qemu-io", "-f", "raw", "-c", "write -P 5 1M 64k", "-c", "write -z 4M 1M", "-c", "discard 5M 1M", "-c", "write -f -P 6 77 1000",
		"-c", "flush", "-c", "read -P 5 1M 64k", "-c", "read -P 0 4M 2M", "-c", "read -P 6 77 1000", uri("c"))
	out := tool(t, "libnbd-bin", "nbdinfo", "--map=x-slacker:dirty:v@s", uri("c"))
	var dirty []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) >= 3 && f[2] == "1" {
			dirty = append(dirty, f[0]+"+"+f[1])
		}
	}
	// What was written, and the data that was trimmed.
	if got := strings.Join(dirty, " "); got != "0+4096 1048576+65536 4194304+2097152" {
		t.Errorf("what differs from the snapshot is %s:\n%s", got, out)
	}
	qcow := filepath.Join(dir, "c.qcow2")
	tool(t, "qemu-utils", "qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri("c"), qcow)
	tool(t, "qemu-utils", "qemu-img", "compare", "-f", "qcow2", "-F", "raw", qcow, uri("c"))
	tool(t, "qemu-utils", "qemu-img", "compare", "-f", "raw", "-F", "raw", image, uri("v@s"))
	tool(t, "fio", "fio", "--name=verify", "--ioengine=nbd", "--uri="+uri("c"), "--rw=randrw", "--bsrange=4k-128k", "--iodepth=16",
		"--size=64m", "--io_size=64m", "--verify=crc32c", "--verify_state_save=0", "--verify_fatal=1", "--fsync=32", "--randrepeat=1")
	tool(t, "qemu-utils", "qemu-img", "compare", "-f", "raw", "-F", "raw", image, uri("v"))
}

// TestDirtyContext asks for contexts as somebody who may read one volume of two.
func TestDirtyContext(t *testing.T) {
	ctx := t.Context()
	s, err := volume.Open(volume.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, name := range []string{"mine", "other"} {
		_, err := s.Create(ctx, name, 1<<20)
		for _, snapshot := range []string{"a", "b"} {
			_, serr := s.Snapshot(ctx, name, snapshot)
			err = errors.Join(err, serr)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	policy, err := access.ParsePolicy([]string{"anonymous read mine"})
	if err != nil {
		t.Fatal(err)
	}
	b := backend{store: s, policy: policy}
	for _, tc := range []struct{ export, query, want string }{
		{"mine", "", "x-slacker:dirty:"},
		{"mine", "x-slacker:", "x-slacker:dirty:"},
		{"mine", "x-slacker:dirty:", "x-slacker:dirty:a x-slacker:dirty:b"},
		{"mine", "x-slacker:dirty:a", "x-slacker:dirty:a"},
		{"mine@b", "x-slacker:dirty:a", "x-slacker:dirty:a"},
		{"mine", "x-slacker:dirty:mine@a", "x-slacker:dirty:mine@a"},
		{"mine", "x-slacker:dirty:none", "refused"},
		{"mine", "x-slacker:dirty:other@a", "refused"},
		{"mine", "x-slacker:dirty:mine", "refused"},
		{"mine", "x-slacker:dirty:@", "refused"},
		{"mine", "x-slacker:other", ""},
		{"mine", "qemu:dirty-bitmap:a", ""},
		{"other", "x-slacker:dirty:", "refused"},
		{"other", "x-slacker:dirty:a", "refused"},
		{"none", "", "refused"},
	} {
		names, err := b.Contexts(ctx, tc.export, tc.query, nbdserver.Conn{})
		got := strings.Join(names, " ")
		if err != nil {
			got = "refused"
		}
		if got != tc.want {
			t.Errorf("%s of %s gives %q, want %q", tc.query, tc.export, got, tc.want)
		}
	}
	d, err := b.Open(ctx, "mine", nbdserver.Conn{}, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.(nbdserver.ContextDevice).Context(ctx, "x-slacker:dirty:other@a"); !block.Is(err, block.Permission) {
		t.Errorf("the context of another's snapshot opens: %v", err)
	}
	if _, err := d.(nbdserver.ContextDevice).Context(ctx, "x-slacker:dirty:a"); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteSnapshot(ctx, "mine", "a"); !block.Is(err, block.Busy) {
		t.Errorf("a snapshot that is compared with is deleted: %v", err)
	}
	if err := errors.Join(d.Close(), s.DeleteSnapshot(ctx, "mine", "a")); err != nil {
		t.Error(err)
	}
}
