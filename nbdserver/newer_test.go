package nbdserver_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestNewerClients: libnbd and QEMU with extended headers. They are unpacked in
// a directory, not installed, and run with its loader and libraries.
func TestNewerClients(t *testing.T) {
	root := os.Getenv("SLACKER_NEWER_CLIENTS")
	if root == "" {
		t.Skip("clients newer than Debian 12's are fetched by scripts/newer-clients.sh (make newer-clients)")
	}
	newer := func(name string, args ...string) string {
		t.Helper()
		libraries := filepath.Join(root, "usr/lib/x86_64-linux-gnu")
		loader := append([]string{"--library-path", libraries, filepath.Join(root, "usr/bin", name)}, args...)
		cmd := exec.CommandContext(t.Context(), filepath.Join(libraries, "ld-linux-x86-64.so.2"), loader...)
		cmd.Env = append(os.Environ(), "QEMU_MODULE_DIR="+filepath.Join(libraries, "qemu"))
		var out, errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errOut
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out.String(), errOut.String())
		}
		return out.String()
	}
	core, logs := observer.New(zap.InfoLevel)
	m := stripes{nbdtest.NewMemory("vol", nbdtest.DefaultInfo(1<<40))}
	m.Add("small", nbdtest.DefaultInfo(48<<20))
	m.Record()
	r := start(t, m, func(o *nbdserver.Options) { o.Logger = zap.New(core) })

	if out := newer("nbdinfo", r.uri("vol")); !strings.Contains(out, "extended packets") || !strings.Contains(out, "x-test:stripes") {
		t.Errorf("nbdinfo does not speak extended headers:\n%s", out)
	}
	out := newer("qemu-io", "-f", "raw", "-t", "none", "-c", "write -P 1 1M 1M", "-c", "write -P 2 500G 64k", "-c", "discard 500G 1G",
		"-c", "write -z -n 700G 100G", "-c", "write -z -n -u 800G 100G", "-c", "write -f -P 3 10 1000", "-c", "read -P 3 10 1000", "-c", "read -P 1 1M 1M",
		"-c", "read -P 0 500G 64k", "-c", "write -P 4 1000G 64k", "-c", "flush", r.uri("vol"))
	if strings.Contains(out, "failed") || strings.Contains(out, "error") {
		t.Errorf("qemu-io:\n%s", out)
	}
	long := map[string]uint64{}
	for _, c := range m.Calls() {
		long[c.Op] = max(long[c.Op], c.LengthBytes)
	}
	if long["Trim"] == 0 || long["WriteZeroes"] < 100<<30 {
		t.Errorf("the longest ranges of QEMU are %v: want 100 GiB of zeroes in one command", long)
	}
	var got []struct{ Offset, Length, Type uint64 }
	if err := json.Unmarshal([]byte(newer("nbdinfo", "--map", "--json", r.uri("vol"))), &got); err != nil {
		t.Fatal(err)
	}
	data := uint64(0)
	for _, e := range got {
		if e.Type == 0 {
			data += e.Length
		}
	}
	if len(got) != 6 || data != 1<<20+2*64<<10 {
		t.Errorf("the map is %+v", got)
	}
	if out := newer("qemu-img", "map", "--output=json", "-f", "raw", r.uri("vol")); strings.Count(out, `"data": true`) != 3 {
		t.Errorf("qemu-img's map:\n%s", out)
	}
	src, back := rawImage(t, 48<<20), filepath.Join(t.TempDir(), "back.raw")
	newer("nbdcopy", "--flush", src, r.uri("small"))
	newer("nbdcopy", "--connections=4", "--requests=64", r.uri("small"), back)
	sameFiles(t, src, back)
	newer("qemu-img", "compare", "-f", "raw", "-F", "raw", src, r.uri("small"))
	newer("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", src, r.uri("small"))
	newer("qemu-img", "compare", "-f", "raw", "-F", "raw", src, r.uri("small"))
	for _, e := range logs.FilterMessage("nbd export opened").All() {
		if h := e.ContextMap()["headers"]; h != "extended" {
			t.Errorf("a connection has %v headers", h)
		}
	}
}
