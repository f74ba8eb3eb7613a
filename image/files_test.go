package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

var epoch = time.Unix(1600000000, 0)

// tarOf makes an archive. Headers without a type are files; their content is
// what the map says.
func tarOf(t *testing.T, entries ...tarEntry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.ModTime.IsZero() {
			h.ModTime = epoch
		}
		h.Size, h.Format = int64(len(e.data)), tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type tarEntry struct {
	tar.Header
	data string
}

func file(name, data string) tarEntry { return tarEntry{tar.Header{Name: name}, data} }
func dir(name string) tarEntry {
	return tarEntry{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}
func symlink(name, to string) tarEntry {
	return tarEntry{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}, ""}
}
func hardlink(name, to string) tarEntry {
	return tarEntry{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}, ""}
}

func save(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to unpack and to mount")
	}
}

// mount checks an ext4 image with e2fsck, mounts it and returns the directory.
func mount(t *testing.T, image string) string {
	t.Helper()
	needRoot(t)
	run(t, "e2fsck", "-fn", image)
	at := t.TempDir()
	run(t, "mount", "-o", "loop,ro", image, at)
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return at
}

// listing describes a tree line by line: type and mode, owner, link count of
// files, target or content.
func listing(t *testing.T, root string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if name == "lost+found" {
			return fs.SkipDir
		}
		line := fmt.Sprintf("%s %o %d:%d", name, st.Mode, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if len(b) > 40 {
				b = fmt.Appendf(nil, "%d bytes", len(b))
			}
			line += fmt.Sprintf(" links=%d mtime=%d %q", st.Nlink, st.Mtim.Sec, b)
		case unix.S_IFLNK:
			to, _ := os.Readlink(path)
			line += " -> " + to
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

func wantListing(t *testing.T, got string, want ...string) {
	t.Helper()
	sort.Strings(want)
	if w := strings.Join(want, "\n"); got != w {
		t.Errorf("the tree is\n%s\nwant\n%s", got, w)
	}
}

const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func everyType(t *testing.T) []byte {
	long := strings.Repeat("d/", 60) + strings.Repeat("n", 200)
	xattrs := file("bin/ping", "ping")
	xattrs.Mode, xattrs.Uid, xattrs.Gid = 0o4755, 70000, 80000
	xattrs.PAXRecords = map[string]string{xattrRecord + "security.capability": capability, xattrRecord + "user.note": "hello"}
	root := dir("./")
	root.Mode, root.Uid, root.Gid = 0o1711, 12, 34
	dev := func(name string, typ byte, major, minor int64) tarEntry {
		return tarEntry{tar.Header{Name: name, Typeflag: typ, Devmajor: major, Devminor: minor, Mode: 0o660}, ""}
	}
	return tarOf(t, root, dir("bin/"), xattrs, hardlink("bin/ping2", "bin/ping"), symlink("sh", "/bin/ping"),
		symlink("long", strings.Repeat("x", 300)), hardlink("longtoo", "long"), dev("null", tar.TypeChar, 1, 3), dev("sda", tar.TypeBlock, 259, 70000),
		dev("pipe", tar.TypeFifo, 0, 0), file("sparse", strings.Repeat("\x00", 1<<20)+"end"), file("empty", ""), file(long, "deep"))
}

func wantEveryType(t *testing.T, root string) {
	t.Helper()
	var deep []string
	for i := 1; i <= 60; i++ {
		deep = append(deep, strings.Repeat("d/", i-1)+"d 40755 0:0")
	}
	wantListing(t, listing(t, root), append(deep, ". 41711 12:34", "bin 40755 0:0", `bin/ping 104755 70000:80000 links=2 mtime=1600000000 "ping"`,
		`bin/ping2 104755 70000:80000 links=2 mtime=1600000000 "ping"`, "sh 120777 0:0 -> /bin/ping", "long 120777 0:0 -> "+strings.Repeat("x", 300),
		"longtoo 120777 0:0 -> "+strings.Repeat("x", 300), "null 20660 0:0 1:3", "sda 60660 0:0 259:70000", "pipe 10660 0:0",
		`sparse 100644 0:0 links=1 mtime=1600000000 "1048579 bytes"`, `empty 100644 0:0 links=1 mtime=1600000000 ""`,
		strings.Repeat("d/", 60)+strings.Repeat("n", 200)+` 100644 0:0 links=1 mtime=1600000000 "deep"`)...)
	buf := make([]byte, 100)
	for attr, want := range map[string]string{"security.capability": capability, "user.note": "hello"} {
		if n, err := unix.Lgetxattr(filepath.Join(root, "bin/ping"), attr, buf); err != nil || string(buf[:n]) != want {
			t.Errorf("attribute %s is %q (%v), want %q", attr, buf[:max(n, 0)], err, want)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(root, "sparse"), &st); err != nil || st.Blocks*512 > 64<<10 {
		t.Errorf("the sparse file takes %d bytes (%v)", st.Blocks*512, err)
	}
	if err := unix.Stat(filepath.Join(root, "bin"), &st); err != nil || st.Mtim.Sec != epoch.Unix() {
		t.Errorf("directory's time is %d (%v)", st.Mtim.Sec, err)
	}
}

func TestTarEveryType(t *testing.T) {
	needRoot(t)
	plain := everyType(t)
	var gz, zst bytes.Buffer
	gw := gzip.NewWriter(&gz)
	zw, err := zstd.NewWriter(&zst)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []io.WriteCloser{gw, zw} {
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	packed := map[string][]byte{"plain": plain, "gzip": gz.Bytes(), "zstd": zst.Bytes()}
	for name, program := range map[string]string{"xz": "xz", "bzip2": "bzip2"} {
		cmd := exec.Command(tool(t, program), "-c")
		cmd.Stdin = bytes.NewReader(plain)
		if packed[name], err = cmd.Output(); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range packed {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			res, out := s.mustImport(t, s.importOptions(t, save(t, "x", b)))
			if res.Format != FormatTar || res.SizeBytes < 1<<30 || len(res.Warnings) != 0 {
				t.Errorf("result %+v", res)
			}
			wantEveryType(t, mount(t, out))
		})
		t.Run(name+" cut", func(t *testing.T) {
			s := startServer(t)
			for _, cut := range []int{len(b) / 2, len(b) - 1100, len(b) - 3} {
				if name == "plain" && cut == len(b)-3 || cut < 512 {
					continue
				}
				s.mustRefuse(t, s.importOptions(t, save(t, "x", b[:cut])), block.Corrupt)
			}
		})
	}
}

func TestDir(t *testing.T) {
	needRoot(t)
	w, err := newWorkspace(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := w.newTree()
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.unpack(t.Context(), bytes.NewReader(everyType(t)), "x", nil); err != nil {
		t.Fatal(err)
	}
	if err := tr.setTimes(); err != nil {
		t.Fatal(err)
	}
	if err := tr.close(); err != nil {
		t.Fatal(err)
	}
	wantEveryType(t, tr.dir)
	s := startServer(t)
	o := s.importOptions(t, tr.dir)
	o.SizeBytes = 128 << 20
	res, out := s.mustImport(t, o)
	if res.Format != FormatDir || res.SizeBytes != 128<<20 {
		t.Errorf("result %+v", res)
	}
	wantEveryType(t, mount(t, out))
	dump := run(t, "dumpe2fs", out)
	if strings.Contains(dump, "INODE_UNINIT") && strings.Count(dump, "ITABLE_ZEROED") != strings.Count(dump, "Group ") {
		t.Errorf("lazy work is left:\n%s", dump)
	}
	if !strings.Contains(dump, "metadata_csum_seed") || !strings.Contains(dump, "Reserved block count:     0") {
		t.Errorf("not as wanted:\n%s", dump)
	}
}

// No name or link leads out of the tree.
func TestEscapes(t *testing.T) {
	needRoot(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 40)
	refused := map[string][]tarEntry{
		"dotdot":        {file("../evil", "x")},
		"deep dotdot":   {file("a/../../evil", "x")},
		"link to it":    {hardlink("stolen", up+outside[1:]+"/secret")},
		"absolute link": {hardlink("stolen", outside+"/secret")},
		"through link":  {symlink("esc", outside), hardlink("stolen", "esc/secret")},
		"dangling":      {symlink("esc", "/nowhere"), file("esc/evil", "x")},
	}
	for name, entries := range refused {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			s.mustRefuse(t, s.importOptions(t, save(t, "x.tar", tarOf(t, entries...))), block.Invalid)
		})
	}
	s := startServer(t)
	// What looks like an escape but stays within the root is taken as that.
	_, out := s.mustImport(t, s.importOptions(t, save(t, "x.tar", tarOf(t,
		file("/abs", "a"), dir("real"), symlink("esc", up+"real"), file("esc/in", "b"), symlink("abslink", "/real"), file("abslink/in2", "c"),
		symlink("last", outside+"/secret"), file("last", "replaced"), symlink("keep", outside), dir("keep"), file("keep/x", "d"), file("a/b/../c", "e")))))
	wantListing(t, listing(t, mount(t, out)), ". 40755 0:0", `abs 100644 0:0 links=1 mtime=1600000000 "a"`, "real 40755 0:0", "esc 120777 0:0 -> "+up+"real",
		`real/in 100644 0:0 links=1 mtime=1600000000 "b"`, "abslink 120777 0:0 -> /real", `real/in2 100644 0:0 links=1 mtime=1600000000 "c"`,
		`last 100644 0:0 links=1 mtime=1600000000 "replaced"`, "keep 40755 0:0", `keep/x 100644 0:0 links=1 mtime=1600000000 "d"`,
		"a 40755 0:0", `a/c 100644 0:0 links=1 mtime=1600000000 "e"`)
	left, err := os.ReadDir(outside)
	if err != nil || len(left) != 1 {
		t.Errorf("outside holds %v (%v)", left, err)
	}
	if b, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(b) != "secret" {
		t.Errorf("the secret is %q (%v)", b, err)
	}
}

func TestTarTooLarge(t *testing.T) {
	needRoot(t)
	big := strings.Repeat("0123456789abcdef", 4<<20/16)
	b := tarOf(t, file("a", big), file("b", big), file("c", big), file("d", big), file("e", big), file("f", big))
	s := startServer(t)
	o := s.importOptions(t, save(t, "x.tar", b))
	o.SizeBytes = 32 << 20
	_, err := Import(t.Context(), o)
	var least uint64
	if !block.Is(err, block.Invalid) {
		t.Fatalf("import into 32 MiB: %v", err)
	}
	if _, scanErr := fmt.Sscanf(err.Error()[strings.Index(err.Error(), "at least"):], "at least %d", &least); scanErr != nil {
		t.Fatalf("%v: %v", err, scanErr)
	}
	o.SizeBytes = 16 << 20
	s.mustRefuse(t, o, block.Invalid, "16777216 bytes")
	o.SizeBytes = least // which must do
	_, out := s.mustImport(t, o)
	mount(t, out)
}

func TestDetect(t *testing.T) {
	where := t.TempDir()
	sparse := filepath.Join(where, "raw")
	if err := os.WriteFile(sparse, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	if _, err := w.Write([]byte("just text")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	v7 := tarOf(t, file("x", "y"))
	copy(v7[257:265], make([]byte, 8))
	sum := 0
	copy(v7[148:156], "        ")
	for _, c := range v7[:512] {
		sum += int(c)
	}
	copy(v7[148:156], fmt.Sprintf("%06o\x00 ", sum))
	fifo := filepath.Join(where, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, want string }{
		{where, FormatDir}, {sparse, FormatRaw}, {save(t, "x", tarOf(t, file("x", "y"))), FormatTar}, {save(t, "x", v7), FormatTar},
		{save(t, "x", []byte("QFI\xfb...")), FormatQcow2}, {save(t, "x", []byte("text")), "multiple of 512"},
		{save(t, "x", []byte("KDMV")), "VMDK"}, {save(t, "x", gz.Bytes()), "holds no tar"}, {save(t, "x", nil), "0 bytes"},
		{fifo, "is a FIFO"}, {"/nowhere", "no such file"}, {save(t, "x", tarOf(t, file("manifest.json", "[]"))), FormatDockerArchive},
		{save(t, "x", tarOf(t, file("oci-layout", "{}"), dir("blobs"), file("index.json", ""))), FormatOCI},
		{save(t, "x", tarOf(t, file("oci-layout", "{}"), file("index.json", ""), file("manifest.json", ""))), FormatDockerArchive},
		{save(t, "x", tarOf(t, file("oci-layout", "{}"), file("etc/passwd", ""), file("manifest.json", ""))), FormatTar},
	} {
		got, err := Detect(c.path)
		if got != c.want && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %q, %v; want %q", c.path, got, err, c.want)
		}
	}
}
