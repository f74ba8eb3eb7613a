package nbdserver_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

// toolPackages says where the clients come from, for the reason of a skip.
var toolPackages = map[string]string{
	"nbdinfo": "libnbd-bin", "nbdcopy": "libnbd-bin", "qemu-img": "qemu-utils", "qemu-io": "qemu-utils",
	"nbdsh": "python3-libnbd", "fio": "fio", "nbd-client": "nbd-client",
}

// tool runs a client and returns its standard output.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		t.Skipf("%s is not installed (Debian package %s)", name, toolPackages[name])
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = t.TempDir()
	// nbdsh takes the first python3, which has to be Debian's.
	cmd.Env = append(os.Environ(), "PATH=/usr/bin:/usr/sbin:/bin:"+os.Getenv("PATH"))
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out.String(), errOut.String())
	}
	return out.String()
}

// rawImage writes a file with data and holes and returns its path.
func rawImage(t *testing.T, sizeBytes int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 1<<20)
	_, _ = rand.Read(data) // never fails
	for _, off := range []int64{0, 5 << 20, sizeBytes - 1<<20} {
		if _, err := f.WriteAt(data, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestNbdinfo(t *testing.T) {
	info := nbdtest.DefaultInfo(64 << 20)
	info.Description = "the description"
	m := nbdtest.NewMemory("vol", info)
	m.Add("vol@snap", nbdserver.Info{SizeBytes: 1 << 20, ReadOnly: true, MinBlockBytes: 512, PreferredBlockBytes: 4096, MaxRequestBytes: 32 << 20})
	r := start(t, m)
	var got struct {
		Protocol string
		Exports  []map[string]any
	}
	if err := json.Unmarshal([]byte(tool(t, "nbdinfo", "--json", r.uri("vol"))), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"export-name": "vol", "description": "the description", "export-size": 64.0 * (1 << 20), "is_read_only": false,
		"can_flush": true, "can_fua": true, "can_trim": true, "can_zero": true, "can_fast_zero": true, "can_cache": true,
		"can_df": true, "can_multi_conn": true, "block_size_minimum": 1.0, "block_size_preferred": 4096.0, "block_size_maximum": 32.0 * (1 << 20)}
	for k, w := range want {
		if v := got.Exports[0][k]; v != w {
			t.Errorf("%s is %v, want %v", k, v, w)
		}
	}
	list := tool(t, "nbdinfo", "--list", "--json", r.uri(""))
	if !strings.Contains(list, `"vol"`) || !strings.Contains(list, `"vol@snap"`) {
		t.Errorf("list shows not both exports:\n%s", list)
	}
	if !strings.Contains(tool(t, "nbdinfo", r.uri("vol@snap")), "is_read_only: true") {
		t.Error("the snapshot is not read-only")
	}
}

func TestNbdinfoMap(t *testing.T) {
	m := nbdtest.NewMemory("vol", nbdtest.DefaultInfo(8<<30))
	r := start(t, m)
	tool(t, "qemu-io", "-f", "raw", "-c", "write -P 1 1M 1M", "-c", "write -P 2 5G 64k", r.uri("vol"))
	var got []struct{ Offset, Length, Type uint64 }
	if err := json.Unmarshal([]byte(tool(t, "nbdinfo", "--map", "--json", r.uri("vol"))), &got); err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, e := range got {
		text += fmt.Sprintf("%d+%d:%d ", e.Offset>>10, e.Length>>10, e.Type)
	}
	if want := "0+1024:3 1024+1024:0 2048+5240832:3 5242880+64:0 5242944+3145664:3 "; text != want {
		t.Errorf("map is %q, want %q", text, want)
	}
}

func TestNbdClientList(t *testing.T) {
	m := nbdtest.NewMemory("one", nbdtest.DefaultInfo(1<<20))
	m.Add("two", nbdtest.DefaultInfo(1<<20))
	r := start(t, m)
	out := tool(t, "nbd-client", "-l", "-unix", r.path)
	if !strings.Contains(out, "one") || !strings.Contains(out, "two") {
		t.Errorf("nbd-client -l shows not both exports:\n%s", out)
	}
}

func TestNbdcopy(t *testing.T) {
	src := rawImage(t, 48<<20)
	r := start(t, nbdtest.NewMemory("vol", nbdtest.DefaultInfo(48<<20)))
	tool(t, "nbdcopy", "--flush", src, r.uri("vol"))
	back := filepath.Join(t.TempDir(), "back.raw")
	tool(t, "nbdcopy", "--connections=4", "--requests=64", r.uri("vol"), back)
	sameFiles(t, src, back)
	tool(t, "nbdcopy", "--synchronous", "--request-size=1048576", r.uri("vol"), back)
	sameFiles(t, src, back)
}

func sameFiles(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		t.Fatalf("%s and %s differ", a, b)
	}
}

func TestQemuImg(t *testing.T) {
	src := rawImage(t, 48<<20)
	r := start(t, nbdtest.NewMemory("vol", nbdtest.DefaultInfo(48<<20)))
	if out := tool(t, "qemu-img", "info", "--output=json", r.uri("vol")); !strings.Contains(out, `"virtual-size": 50331648`) {
		t.Errorf("info shows another size:\n%s", out)
	}
	tool(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", src, r.uri("vol"))
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", src, r.uri("vol"))
	back := filepath.Join(t.TempDir(), "back.qcow2")
	tool(t, "qemu-img", "convert", "-m", "16", "-W", "-f", "raw", "-O", "qcow2", r.uri("vol"), back)
	tool(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", back, src)
	var got []struct {
		Start, Length int64
		Zero, Data    bool
	}
	if err := json.Unmarshal([]byte(tool(t, "qemu-img", "map", "--output=json", "-f", "raw", r.uri("vol"))), &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 5 || !got[0].Data || got[1].Start != 1<<20 || !got[1].Zero || got[1].Data {
		t.Errorf("map is %+v", got)
	}
}

func TestQemuIO(t *testing.T) {
	m := nbdtest.NewMemory("vol", nbdtest.DefaultInfo(32<<20))
	r := start(t, m)
	m.Record()
	out := tool(t, "qemu-io", "-f", "raw", "-t", "none",
		"-c", "write -P 0x11 0 1M", "-c", "write -f -P 0x22 123k 77k", "-c", "read -P 0x11 0 123k", "-c", "read -P 0x22 123k 77k",
		"-c", "write -P 0x33 1000 333", "-c", "read -P 0x33 1000 333",
		"-c", "write -z 64k 64k", "-c", "read -P 0 64k 59k", "-c", "write -z -u 256k 128k", "-c", "read -P 0 256k 128k",
		"-c", "discard 512k 64k", "-c", "read -P 0 512k 64k", "-c", "write -P 9 0 32M", "-c", "read -P 9 0 32M",
		"-c", "aio_write -P 7 1M 4M", "-c", "aio_read 8M 4M", "-c", "aio_flush", "-c", "flush", r.uri("vol"))
	if strings.Contains(out, "failed") {
		t.Fatalf("qemu-io:\n%s", out)
	}
	seen := map[string]bool{}
	for _, c := range m.Calls() {
		seen[c.Op] = true
		seen[c.Op+" fua"] = seen[c.Op+" fua"] || c.FUA
		seen[c.Op+" nohole"] = seen[c.Op+" nohole"] || c.NoHole
	}
	for _, op := range []string{"WriteAt", "WriteAt fua", "WriteZeroes", "WriteZeroes nohole", "Trim", "Flush", "ReadNow"} {
		if !seen[op] {
			t.Errorf("qemu-io caused no %s", op)
		}
	}
}

// TestFio verifies data with a deep queue and replies out of order.
func TestFio(t *testing.T) {
	m := nbdtest.NewMemory("vol", nbdtest.DefaultInfo(64<<20))
	m.Slow = func(offBytes uint64, _ int) bool { return offBytes/4096%3 == 0 }
	r := start(t, m)
	for _, bs := range []string{"4k-4k", "4k-256k"} {
		tool(t, "fio", "--name=verify", "--ioengine=nbd", "--uri="+r.uri("vol"), "--rw=randwrite", "--bsrange="+bs, "--blockalign=4k",
			"--iodepth=32", "--size=64m", "--io_size=32m", "--verify=crc32c", "--verify_fatal=1", "--fsync=64", "--randseed=7", "--output-format=terse")
	}
}
