package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := findTool(name, "?")
	if err != nil {
		t.Skipf("no %s on this machine", name)
	}
	return path
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(tool(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// makeRaw makes a disk image with data, zeroes that are stored, and holes.
func makeRaw(t *testing.T, sizeBytes int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Truncate(sizeBytes); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 40 {
		p := make([]byte, 1+rng.IntN(300<<10))
		if i%4 != 0 { // each fourth is zeroes
			for j := range p {
				p[j] = byte(rng.Uint32())
			}
		}
		if _, err := f.WriteAt(p, rng.Int64N(sizeBytes-int64(len(p)))); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestRawRoundTrip(t *testing.T) {
	for _, size := range []int64{40 << 20, 10<<20 + 512, 3<<20 - 1} {
		s := startServer(t)
		s.Record()
		raw := makeRaw(t, size)
		o := s.importOptions(t, raw)
		o.Format = FormatRaw
		var last uint64
		o.Progress = func(phase string, done, total uint64) {
			if phase != PhaseWrite || done < last || total != uint64(size) {
				t.Errorf("progress %s %d of %d after %d", phase, done, total, last)
			}
			last = done
		}
		res, out := s.mustImport(t, o)
		if last != uint64(size) {
			t.Errorf("progress ended at %d, want %d", last, size)
		}
		if res.SizeBytes%block.Size != 0 || res.SizeBytes-res.PaddedBytes != uint64(size) || res.SourceBytes != uint64(size) {
			t.Errorf("result %+v of a source of %d bytes", res, size)
		}
		if err := os.Truncate(out, size); err != nil {
			t.Fatal(err)
		}
		if a, b := sum(t, raw), sum(t, out); a != b {
			t.Errorf("exported %s, want %s", b, a)
		}
		checkWrites(t, s, res)
	}
}

// checkWrites checks that only whole blocks were written, as many as said, and
// that a flush came after the last.
func checkWrites(t *testing.T, s *server, res Result) {
	t.Helper()
	var written uint64
	flushed := false
	for _, c := range s.Calls() {
		switch c.Op {
		case "WriteAt":
			flushed = false
			written += c.LengthBytes
			if c.OffBytes%block.Size != 0 || c.LengthBytes%block.Size != 0 || c.LengthBytes > chunkBytes {
				t.Errorf("write of %d bytes at %d", c.LengthBytes, c.OffBytes)
			}
		case "Flush":
			flushed = true
		}
	}
	if written != res.WrittenBytes || written == 0 || written > res.SizeBytes*3/4 {
		t.Errorf("%d bytes were written, %d reported, of %d", written, res.WrittenBytes, res.SizeBytes)
	}
	if !flushed {
		t.Errorf("no flush after the last write")
	}
}

// What pads the last block is zero, also in a buffer that was used before.
func TestPadding(t *testing.T) {
	s := startServer(t)
	b := bytes.Repeat([]byte{0xff}, (copiers+8)*chunkBytes+512)
	raw := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(raw, b, 0o600); err != nil {
		t.Fatal(err)
	}
	_, out := s.mustImport(t, s.importOptions(t, raw))
	got, err := os.ReadFile(out)
	if want := append(b, make([]byte, block.Size-512)...); err != nil || !bytes.Equal(got, want) {
		t.Errorf("exported %d bytes that are not the %d imported and zeroes (%v)", len(got), len(want), err)
	}
}

func TestSizeAskedFor(t *testing.T) {
	s := startServer(t)
	o := s.importOptions(t, makeRaw(t, 10<<20))
	o.SizeBytes = 64 << 20
	res, _ := s.mustImport(t, o)
	if res.SizeBytes != 64<<20 || res.Format != FormatRaw {
		t.Errorf("result %+v", res)
	}
	o.Target = "img2@v1"
	o.SizeBytes = 8 << 20
	s.mustRefuseTarget(t, o, "10485760 bytes and does not fit in the 8388608 asked for", "at least 10485760")
	o.SizeBytes = 64<<20 + 1
	s.mustRefuseTarget(t, o, "multiple of 4096")
	o.Target, o.SizeBytes = "img@v1", 0
	if _, err := Import(t.Context(), o); !block.Is(err, block.Exists) {
		t.Errorf("import into a snapshot that is there: %v", err)
	}
}

func (s *server) mustRefuseTarget(t *testing.T, o ImportOptions, want ...string) {
	t.Helper()
	_, err := Import(t.Context(), o)
	if !block.Is(err, block.Invalid) {
		t.Fatalf("import: %v, want invalid", err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func TestQcow2RoundTrip(t *testing.T) {
	qemu := tool(t, "qemu-img")
	raw := makeRaw(t, 24<<20+512*3)
	for name, args := range map[string][]string{
		"v3":          nil,
		"v2":          {"-o", "compat=0.10"},
		"compressed":  {"-c"},
		"zstd":        {"-c", "-o", "compression_type=zstd"},
		"small":       {"-o", "cluster_size=512"},
		"large":       {"-c", "-o", "cluster_size=2M"},
		"metadata":    {"-o", "preallocation=metadata"},
		"falloc":      {"-o", "preallocation=falloc"},
		"all written": {"-S", "0"},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			path := filepath.Join(t.TempDir(), "disk.qcow2")
			if out, err := exec.Command(qemu, append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, args...), raw, path)...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if name == "v3" {
				run(t, "qemu-io", "-c", "write -z 1M 3M", "-c", "write -P 7 9M 100k", path)
			}
			res, out := s.mustImport(t, s.importOptions(t, path))
			if res.Format != FormatQcow2 || res.PaddedBytes != (block.Size-512*3) {
				t.Errorf("result %+v", res)
			}
			run(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, out)
			back := filepath.Join(t.TempDir(), "back: with colon.qcow2")
			if _, err := Export(t.Context(), ExportOptions{Source: "img@v1", Dest: back, Format: FormatQcow2, Client: s.client}); err != nil {
				t.Fatal(err)
			}
			run(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", back, out)
			run(t, "qemu-img", "check", back)
		})
	}
}

func TestQcow2Refused(t *testing.T) {
	qemu := tool(t, "qemu-img")
	raw := makeRaw(t, 8<<20)
	dir := t.TempDir()
	base := filepath.Join(dir, "base.qcow2")
	make1 := func(name string, args ...string) string {
		path := filepath.Join(dir, name)
		if out, err := exec.Command(qemu, append(args, path)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return path
	}
	if out, err := exec.Command(qemu, "convert", "-O", "qcow2", raw, base).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	good, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	change := func(name string, f func(b []byte) []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, f(bytes.Clone(good)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	be := binary.BigEndian
	for _, c := range []struct {
		path string
		kind block.Kind
		want string
	}{
		{make1("overlay.qcow2", "create", "-f", "qcow2", "-b", base, "-F", "qcow2"), block.Invalid, "has a backing file"},
		{change("luks.qcow2", func(b []byte) []byte { be.PutUint32(b[32:], 2); return b }), block.Invalid, "encrypted"},
		{change("corrupt.qcow2", func(b []byte) []byte { b[79] |= 2; return b }), block.Corrupt, "marked corrupt"},
		{change("external.qcow2", func(b []byte) []byte { b[79] |= 4; return b }), block.Unsupported, "external data file"},
		{change("extl2.qcow2", func(b []byte) []byte { b[79] |= 16; return b }), block.Unsupported, "extended L2"},
		{change("future.qcow2", func(b []byte) []byte { b[72] |= 128; return b }), block.Unsupported, "bit 63"},
		{change("v9.qcow2", func(b []byte) []byte { b[7] = 9; return b }), block.Invalid, "version 9"},
		{change("bits.qcow2", func(b []byte) []byte { be.PutUint32(b[20:], 63); return b }), block.Invalid, "2^63"},
		{change("size.qcow2", func(b []byte) []byte { be.PutUint64(b[24:], 1<<62); return b }), block.Invalid, "size of 4611686018427387904"},
		{change("l1.qcow2", func(b []byte) []byte { be.PutUint32(b[36:], 1<<31); return b }), block.Invalid, "L1 table of 2147483648"},
		{change("l1off.qcow2", func(b []byte) []byte { be.PutUint64(b[40:], 1<<60); return b }), block.Corrupt, "ends early"},
		{change("half.qcow2", func(b []byte) []byte { return b[:len(b)/2] }), block.Corrupt, "ends early"},
		{change("short.qcow2", func(b []byte) []byte { return b[:len(b)-65536] }), block.Corrupt, "ends early"},
		{change("head.qcow2", func(b []byte) []byte { return b[:60] }), block.Invalid, "header ends early"},
		{change("headlen.qcow2", func(b []byte) []byte { be.PutUint32(b[100:], 1<<30); return b }), block.Invalid, "header of 1073741824"},
	} {
		t.Run(filepath.Base(c.path), func(t *testing.T) {
			s := startServer(t)
			s.mustRefuse(t, s.importOptions(t, c.path), c.kind, c.want, c.path)
			if len(s.sizes) != 0 {
				t.Error("the import was begun")
			}
		})
	}
}

// A compressed cluster that is damaged is found while it is read.
func TestQcow2DamagedInside(t *testing.T) {
	qemu := tool(t, "qemu-img")
	path := filepath.Join(t.TempDir(), "c.qcow2")
	raw := filepath.Join(t.TempDir(), "c.raw")
	if err := os.WriteFile(raw, bytes.Repeat([]byte("all work and no play\n"), 100000), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(qemu, "convert", "-f", "raw", "-c", "-O", "qcow2", raw, path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	// The first data cluster comes after the header and four tables.
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xff}, 64), 5<<16); err != nil {
		t.Fatal(err)
	}
	s := startServer(t)
	s.mustRefuse(t, s.importOptions(t, path), block.Corrupt, path, "cut short or damaged")
	if s.aborted != 1 {
		t.Errorf("aborted %d times, want 1", s.aborted)
	}
}

func FuzzQcow2(f *testing.F) {
	if qemu, err := exec.LookPath("qemu-img"); err == nil {
		path := filepath.Join(f.TempDir(), "seed")
		for _, args := range [][]string{nil, {"-o", "compat=0.10"}, {"-o", "preallocation=metadata"}} {
			args = append(append([]string{"create", "-f", "qcow2", "-o", "cluster_size=512"}, args...), path, "64k")
			if out, err := exec.Command(qemu, args...).CombinedOutput(); err != nil {
				f.Fatalf("%v: %s", err, out)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := newQcow2(bytes.NewReader(b), "fuzz")
		if err != nil || q.size > 1<<24 {
			return
		}
		p := make([]byte, 64<<10)
		for off := uint64(0); off < q.size; {
			start, end, err := q.nextData(off)
			if err != nil {
				return
			}
			if start < off || end < start || end > q.size {
				t.Fatalf("data after %d: [%d, %d) of %d", off, start, end, q.size)
			}
			for at := start; at < end; at += uint64(len(p)) {
				if err := q.readAt(p[:min(uint64(len(p)), end-at)], at); err != nil && block.KindOf(err) != block.Corrupt {
					t.Fatalf("kind %v: %v", block.KindOf(err), err)
				}
			}
			off = max(end, off+1)
		}
	})
}

func TestServerFails(t *testing.T) {
	raw := makeRaw(t, 16<<20)
	s := startServer(t)
	s.Hook = func(_ context.Context, c nbdtest.Call) error {
		if c.Op == "WriteAt" && c.OffBytes > 8<<20 {
			return block.Errorf(block.NoSpace, "full")
		}
		return nil
	}
	s.mustRefuse(t, s.importOptions(t, raw), block.NoSpace, "import img@v1")
	if s.aborted != 1 {
		t.Errorf("aborted %d times, want 1", s.aborted)
	}
	o := s.importOptions(t, raw)
	o.NBDAddr = "unix:///nowhere/nbd.sock"
	if _, err := Import(t.Context(), o); !block.Is(err, block.Unavailable) || s.aborted != 2 {
		t.Errorf("import with no NBD server: %v, aborted %d times", err, s.aborted)
	}
	o = s.importOptions(t, "/nowhere/x")
	s.mustRefuse(t, o, block.NotFound, "/nowhere/x")
}

func TestCancel(t *testing.T) {
	s := startServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.Hook = func(_ context.Context, c nbdtest.Call) error {
		if c.Op == "WriteAt" {
			cancel()
		}
		return nil
	}
	_, err := Import(ctx, s.importOptions(t, makeRaw(t, 64<<20)))
	if !errors.Is(err, context.Canceled) || s.aborted != 1 {
		t.Errorf("cancelled import: %v, aborted %d times", err, s.aborted)
	}
}

func TestExportRefusals(t *testing.T) {
	s := startServer(t)
	_, out := s.mustImport(t, s.importOptions(t, makeRaw(t, 4<<20)))
	for _, format := range ExportFormats() {
		o := ExportOptions{Source: "img@v1", Dest: out, Format: format, Client: s.client}
		if _, err := Export(t.Context(), o); !block.Is(err, block.Exists) {
			t.Errorf("export over a file: %v", err)
		}
		o.Force = true
		if _, err := Export(t.Context(), o); err != nil {
			t.Errorf("export over a file with force: %v", err)
		}
		o.Dest = t.TempDir()
		if _, err := Export(t.Context(), o); !block.Is(err, block.Invalid) {
			t.Errorf("export over a directory: %v", err)
		}
		o.Dest = filepath.Join(t.TempDir(), "x")
		o.Source = "img@v2"
		if _, err := Export(t.Context(), o); !block.Is(err, block.NotFound) {
			t.Errorf("export of nothing: %v", err)
		}
		if _, err := os.Lstat(o.Dest + partialSuffix); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("partial file left: %v", err)
		}
	}
}

// An export that fails half way leaves nothing, in either format.
func TestExportFails(t *testing.T) {
	s := startServer(t)
	fail := false
	s.Hook = func(_ context.Context, c nbdtest.Call) error {
		if fail && (c.Op == "ReadAt" || c.Op == "ReadNow") && c.OffBytes > 4<<20 {
			return block.Errorf(block.Corrupt, "bad block")
		}
		return nil
	}
	s.mustImport(t, s.importOptions(t, makeRaw(t, 16<<20)))
	fail = true
	for _, format := range ExportFormats() {
		dir := t.TempDir()
		_, err := Export(t.Context(), ExportOptions{Source: "img@v1", Dest: filepath.Join(dir, "x"), Format: format, Client: s.client})
		if err == nil {
			t.Errorf("export to %s succeeded", format)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("left after the failure: %v (%v)", left, err)
		}
	}
}

// Two exports to one place do not mix.
func TestExportsLock(t *testing.T) {
	dest := filepath.Join(t.TempDir(), "x")
	p, err := createPartial(dest, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := createPartial(dest, false); !block.Is(err, block.Busy) {
		t.Errorf("second export: %v", err)
	}
	if err := os.WriteFile(dest, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.publish(); !block.Is(err, block.Exists) {
		t.Errorf("publish over a file that has appeared: %v", err)
	}
}
